# SPDX-License-Identifier: Apache-2.0
"""Certificate chains by number, good and bad: none, one or two faults, and harmless variation.

made = chain(7)                       # always the same but for its keys and signatures
made.faults                           # what is unusual in it, by name: ("leaf: expired",)
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable
from typing import Any

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.rig.chains import AUTHORITY_USAGE, CLIENT, NOW, SPIFFE, Made, Plan, Spec, build, good, key

_DAY = 86_400
Change = Callable[[Plan], None]


def chain(number: int, *, bytes_too: bool = False) -> Made:
    """The chain of this number: none, one or two faults, and harmless variation.

    bytes_too: and one byte or more of its certificates are others.
    """
    chance = random.Random(number)  # noqa: S311 - to be the same every time
    plan = good(chance.choice((0, 1, 1, 2, 3)), number)
    plan.random = chance
    if chance.random() < 0.5:
        for spec in plan.specs:
            spec.key_ids = True
    for variation in chance.sample(VARIATIONS, chance.randrange(4)):
        variation(plan)
    for fault in chance.sample(FAULTS, chance.choice((0, 1, 1, 1, 2))):
        fault(plan)
    if bytes_too:
        plan.mutations = max(1, plan.mutations)
    return plan.make()


def _fault(name: str, **values: Any) -> Change:
    """One certificate anywhere with other fields."""

    def change(plan: Plan) -> None:
        place, spec = plan.any()
        for field_name, value in values.items():
            setattr(spec, field_name, value)
        plan.faults.append(f"{place}: {name}")

    return change


def _of_authority(name: str, **values: Any) -> Change:
    def change(plan: Plan) -> None:
        place, spec = plan.authority()
        for field_name, value in values.items():
            setattr(spec, field_name, value)
        plan.faults.append(f"{place}: {name}")

    return change


def _of_leaf(name: str, **values: Any) -> Change:
    def change(plan: Plan) -> None:
        for field_name, value in values.items():
            setattr(plan.leaf, field_name, value)
        plan.faults.append(f"leaf: {name}")

    return change


def _of_plan(name: str, **values: Any) -> Change:
    def change(plan: Plan) -> None:
        for field_name, value in values.items():
            setattr(plan, field_name, value)
        plan.faults.append(name)

    return change


def _another_key(kind: str) -> Change:
    def change(plan: Plan) -> None:
        place, spec = plan.any()
        spec.key = key(kind)
        plan.faults.append(f"{place}: key {kind}")

    return change


def _old_digest(digest: str) -> Change:
    def change(plan: Plan) -> None:
        index = plan.random.randrange(len(plan.specs))
        plan.specs[max(0, index - 1)].key = key("rsa2048", 9)
        plan.specs[index].digest = digest
        plan.faults.append(f"{plan.place(index)}: signed by {digest}")

    return change


def _cross_signed(valid: bool) -> Change:
    """The first link once more, by another root, which is trusted instead; or not."""

    def change(plan: Plan) -> None:
        other = Spec("other root", key("p256", 80), True, usage=AUTHORITY_USAGE)
        first = plan.specs[min(1, len(plan.specs) - 2)]
        again = Spec(first.cn, first.key, True, usage=AUTHORITY_USAGE)
        again.end = NOW + _DAY if valid else NOW - _DAY
        plan.extra.append(build(again, other))
        plan.extra_trust.append(build(other, other))
        plan.trust_root = plan.random.random() < 0.5
        plan.faults.append(f"cross-signed, {'valid' if valid else 'expired'}, {plan.trust_root=}")

    return change


def _extra(plan: Plan) -> None:
    stranger = Spec("stranger", key("p256", 70), True, usage=AUTHORITY_USAGE)
    plan.extra.append(build(stranger, stranger))
    namesake = Spec(plan.specs[-2].cn, key("p256", 71), True, usage=AUTHORITY_USAGE)
    plan.extra.append(build(namesake, stranger))


def _names(*names: x509.GeneralName) -> Change:
    def change(plan: Plan) -> None:
        plan.leaf.names = names

    return change


def _vary(**values: Any) -> Change:
    def change(plan: Plan) -> None:
        for name, value in values.items():
            setattr(plan, name, value)

    return change


def _leaf_field(**values: Any) -> Change:
    def change(plan: Plan) -> None:
        for name, value in values.items():
            setattr(plan.leaf, name, value)

    return change


DNS = x509.DNSName
URI = x509.UniformResourceIdentifier
NET = x509.IPAddress(ipaddress.ip_network("10.0.0.0/8"))
# Harmless; some make a fault elsewhere matter.
VARIATIONS: list[Change] = [
    _vary(shuffle=True),
    _vary(with_root=True),
    _vary(trust_links=True),
    _extra,
    _names(),
    _names(DNS("web.example.org")),
    _names(SPIFFE, DNS("web.example.org")),
    _names(x509.IPAddress(ipaddress.ip_address("10.1.2.3")), DNS("web.example.org")),
    _names(x509.RFC822Name("web@example.org")),
    _leaf_field(usage=None),
    _leaf_field(purposes=None),
    _leaf_field(ca=None),
    _leaf_field(purposes=(CLIENT, ExtendedKeyUsageOID.SERVER_AUTH)),
    _leaf_field(cn="web.example.org"),
    _leaf_field(unknown=False),
]
_OTHER = x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "others")]))
_SAME = x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "flowtag tests")]))
FAULTS: list[Change] = [
    _fault("expired", end=NOW - 3600),
    _fault("not yet valid", begin=NOW + 3600),
    _fault("tampered", broken=True),
    _fault("wrong issuer", issuer_cn="somebody"),
    _fault("wrong signer", signer=key("p256", 98)),
    _fault("unknown critical extension", unknown=True),
    _fault("wrong key identifier", key_ids=True, wrong_key_id=True),
    _fault("no usage that is needed", usage=("key_agreement",)),
    _fault("other usage", usage=("key_encipherment", "data_encipherment")),
    _fault("for servers", purposes=(ExtendedKeyUsageOID.SERVER_AUTH,)),
    _fault("for any purpose", purposes=(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)),
    _of_authority("no CA flag", ca=False),
    _of_authority("no basic constraints", ca=None),
    _of_authority("no basic constraints, no usage", ca=None, usage=None),
    _of_authority("path length 0", pathlen=0),
    _of_authority("path length 1", pathlen=1),
    _of_authority("no usage", usage=None),
    _of_authority("names by DNS, other", constraints=(DNS("example.net"),)),
    _of_authority("names by DNS, same", constraints=(DNS("example.org"),)),
    _of_authority("names by DNS, excluded", excluded=(DNS("web.example.org"),)),
    _of_authority("names by DNS, not critical", constraints=(DNS("x.net"),), constraints_critical=False),
    _of_authority("names by URI, other", constraints=(URI("example.net"),)),
    _of_authority("names by URI, same", constraints=(URI("example.org"),)),
    _of_authority("names by address", constraints=(NET,)),
    _of_authority("names by address, excluded", excluded=(NET,)),
    _of_authority("names by directory, other", constraints=(_OTHER,)),
    _of_authority("names by directory, same", constraints=(_SAME,)),
    _of_authority("names by directory, not critical", constraints=(_OTHER,), constraints_critical=False),
    _of_authority("names by mail", constraints=(x509.RFC822Name("example.net"),)),
    _of_leaf("an authority", ca=True),
    _of_leaf("an authority's usage", usage=("digital_signature", "key_cert_sign")),
    _of_plan("root not trusted", trust_root=False),
    _of_plan("root not trusted, links are", trust_root=False, trust_links=True),
    _of_plan("link missing", missing=1),
    _of_plan("one byte is another", mutations=1),
    _of_plan("some bytes are others", mutations=4),
    _another_key("p384"),
    _another_key("p521"),
    _another_key("k256"),
    _another_key("rsa2048"),
    _another_key("rsa1024"),
    _another_key("ed25519"),
    _old_digest("sha1"),
    _old_digest("md5"),
    _cross_signed(True),
    _cross_signed(False),
]
