# SPDX-License-Identifier: Apache-2.0
"""What has to hold under every engine, whatever its version: run by the tests of engines/ and newest/.

An engine here already calls the hook. Each scenario makes containers, lets them connect to each other, to
the host and from it, and asks of every flow who owned its ends.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from bpf import syscall
from hooks import installed
from identity.incarnation import Incarnation
from identity.workload import KIND_CONTAINER, KIND_POD
from tests.engines.registered import Registered
from tests.engines.site import Site
from tests.rig.container import Runc, cgroup_mounts
from tests.rig.containerd import IMAGE, Containerd, Pod
from tests.rig.docker import Docker
from tests.rig.exporter import Record
from tests.rig.podman import Podman
from tests.rig.puppet import Puppet

PORT = 8080
UID = "b2f6a0de-6f0c-4a3e-8a55-0d9a4f1f2f10"
CONNECT_ONCE = """
import socket
with socket.create_connection(("127.0.0.1", int(input())), 5) as peer:
    peer.recv(5, socket.MSG_WAITALL)
"""


def use_wrapper(site: Site, engine: Docker) -> None:
    """Make the wrapper Docker's default runtime, which a reload does."""
    path = str(site.hook_directory / installed.WRAPPER)
    engine.settings |= {"runtimes": {"flowtag": {"path": path}}, "default-runtime": "flowtag"}
    engine.write_config()
    engine.reload()


def owned(record: Record, container_id: str) -> None:
    """The record belongs to this container, by its cgroup."""
    assert (record["container_id"], record["attributed_by"]) == (container_id, "cgroup"), record
    assert record["identity_source"] == "hook"


def the_hosts(record: Record) -> None:
    assert (record["workload_kind"], record["attributed_by"]) == ("host", "host"), record
    assert record["workload"] == os.uname().nodename


def own_cgroup(one: Incarnation, puppet: Puppet) -> None:
    """What the hook claimed is the cgroup that the process is in; it is not the namespace that answers."""
    place = Path(f"/proc/{puppet.pid}/cgroup").read_text(encoding="ascii").splitlines()[-1]
    assert place.startswith("0::/flowtag-test-")
    assert one.cgroup == os.stat(f"{cgroup_mounts('cgroup2')[0]}{place.removeprefix('0::')}").st_ino
    assert one.netns_flags == 0


def containers(site: Site, engine: Docker | Podman, restart: Callable[[], None] | None) -> None:
    """Two containers on the bridge and one on the host's network; a life with an engine's restart in it."""
    folder = engine.directory / "puppets"
    web, shop, guest = (Puppet(folder, name) for name in ("web", "shop", "guest"))
    web_id, shop_id = engine.run("web", web), engine.run("shop", shop)
    guest_id = engine.run("guest", guest, "--network", "host")
    for puppet, container in ((web, web_id), (shop, shop_id), (guest, guest_id)):
        own_cgroup(site.await_identity(container), puppet)
    web.listen(PORT)

    flow = site.flow(shop, engine.address("web"), PORT)
    owned(flow.client, shop_id)
    owned(flow.server, web_id)
    flow = site.from_host(engine.address("web"), PORT)
    the_hosts(flow.client)
    owned(flow.server, web_id)
    flow = site.to_host(shop, engine.bridge.ipv4)
    owned(flow.client, shop_id)
    the_hosts(flow.server)
    flow = site.to_host(guest, "127.0.0.1")
    owned(flow.client, guest_id)
    the_hosts(flow.server)

    if restart:
        restart()
        flow = site.flow(shop, engine.address("web"), PORT)
        owned(flow.client, shop_id)
        owned(flow.server, web_id)

    # Stopped and started: the same id, another incarnation.
    first = site.await_identity(web_id)
    engine.command("stop", "--time", "5", "web")
    site.await_end(first)
    engine.command("start", "web")
    web.await_up()
    second = site.await_identity(web_id)
    assert second.workload.id != first.workload.id
    own_cgroup(second, web)
    web.listen(PORT)
    flow = site.flow(shop, engine.address("web"), PORT)
    owned(flow.client, shop_id)
    owned(flow.server, web_id)
    assert site.pending() == []

    living = [site.await_identity(container) for container in (web_id, shop_id, guest_id)]
    assert len({one.workload.id for one in living}) == 3
    for name in ("web", "shop", "guest"):
        engine.command("rm", "--force", name)
    for one in living:
        site.await_end(one)
    # The exporter would have ended them later; once in a while it comes just before the hook.
    assert site.ended_by_hook() >= 4 - 1


def pods(
    site: Site, engine: Containerd, pause_hook: bool = True, restart: Callable[[], None] | None = None
) -> None:
    """Two pods of two containers each, told apart though those of a pod share a namespace and an address."""
    folder = engine.directory / "puppets"
    web, side = Puppet(folder, "web"), Puppet(folder, "side")
    shop, cron = Puppet(folder, "shop"), Puppet(folder, "cron")
    front = engine.run_pod("web-0", {"app": web, "side": side}, namespace="shop", uid=UID)
    back = engine.run_pod("job-1", {"app": shop, "cron": cron}, namespace="batch")
    living = {
        name: site.await_identity(container)
        for name, container in (*front.containers.items(), ("shop", back.containers["app"]))
    }
    own_cgroup(living["app"], web)
    own_cgroup(living["side"], side)
    own_cgroup(living["shop"], shop)
    assert living["app"].netns == living["side"].netns != living["shop"].netns
    for puppet, port in ((web, PORT), (side, PORT + 1)):
        puppet.listen(port)

    def of(record: Record, pod: Pod, namespace: str, container: str) -> None:
        owned(record, pod.containers[container])
        names = (record["namespace"], record["pod"], record["container"], record["image"])
        assert names == (namespace, pod.name, container, IMAGE)
        assert record["workload"] == f"{namespace}/{pod.name}/{container}"
        assert record["runtime"] == "containerd"

    def everything() -> None:
        address = front.address
        for client, name in ((shop, "app"), (cron, "cron")):
            for port, server in ((PORT, "app"), (PORT + 1, "side")):
                flow = site.flow(client, address, port)
                of(flow.client, back, "batch", name)
                of(flow.server, front, "shop", server)
        for target in (address, "127.0.0.1"):  # within a pod
            flow = site.flow(side, target, PORT)
            of(flow.client, front, "shop", "side")
            of(flow.server, front, "shop", "app")
        flow = site.from_host(address, PORT + 1)
        the_hosts(flow.client)
        of(flow.server, front, "shop", "side")
        flow = site.to_host(shop, engine.bridge.ipv4)
        of(flow.client, back, "batch", "app")
        the_hosts(flow.server)

    everything()
    if pause_hook:
        living["pause"] = site.await_identity(front.sandbox)
        pause(site, front, living["pause"], living["app"])
    (restart or engine.restart)()
    everything()

    # One container of the pod made anew: another id; the other one and the pod are not touched.
    old = front.containers["side"]
    engine.cri.runtime("StopContainer", container_id=old, timeout=5)
    engine.cri.runtime("RemoveContainer", container_id=old)
    site.await_end(living.pop("side"))
    assert all(claim.until == 0 for claim in site.claims(living["app"]))
    front.add("side", side)
    side.await_up()
    side.listen(PORT + 1)
    everything()
    assert site.pending() == []

    living["side"] = site.await_identity(front.containers["side"])
    for pod in (front, back):
        pod.stop()
        pod.remove()
    # Without the pause container's own claim the pod's namespace is its first container's, and stays so until
    # the exporter collects it: the other one was living when that one ended.
    for one in living.values():
        site.await_end(one, *(() if pause_hook else ("ft_cgroup",)))
    # The exporter would have ended them later; once in a while it comes just before the hook.
    assert site.ended_by_hook() >= (7 if pause_hook else 5) - 1


def pause(site: Site, pod: Pod, sandbox: Incarnation, app: Incarnation) -> None:
    """The pause container is the pod: it claims the namespace, and what runs in its cgroup is the pod's."""
    assert (sandbox.workload.kind, app.workload.kind) == (KIND_POD, KIND_CONTAINER)
    assert sandbox.netns == app.netns
    namespace = [claim for claim in site.claims(sandbox) if claim.workload == sandbox.workload.id]
    assert len(namespace) == 2  # cgroup and namespace
    address = pod.address
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            Path(sandbox.cgroup_directory, "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
            syscall.setns(os.open(f"/proc/{sandbox.pid}/ns/net", os.O_RDONLY))
            with socket.create_connection((address, PORT), 5) as peer:
                peer.recv(5, socket.MSG_WAITALL)
                os.write(write, b"%d" % peer.getsockname()[1])
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        local = int(answer.read())
    os.waitpid(child, 0)
    record = site.exporter.await_record(lambda r: (r["role"], r["local_port"]) == ("client", local))
    owned(record, pod.sandbox)
    assert (record["workload_kind"], record["workload"]) == ("pod", "shop/web-0")
    assert (record["container"], record["image"]) == (None, None)


def one_container(site: Site, runtime: Runc, **bundle: str) -> None:
    """A bundle without an engine: created, started, its one connection told, deleted."""
    container = runtime.create("alone", CONNECT_ONCE, hooks=site.hooks, **bundle)
    one = site.await_identity("alone")
    assert (one.cgroup, one.netns_flags) == (container.cgroup_id, 0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        port: int = listener.getsockname()[1]
        container.start()
        container.say(str(port))
        peer, (_, local) = listener.accept()
        with peer:
            peer.sendall(b"hello")
            peer.recv(1)
    assert container.wait() == 0
    record = site.exporter.await_record(lambda r: (r["role"], r["local_port"]) == ("client", local))
    owned(record, "alone")
    container.delete()
    site.await_end(one)


def life_of_containers(
    site: Site, engine: Docker | Podman, registered: Registered, restart: Callable[[], None] | None
) -> None:
    """Register, run, restart the engine, unregister; who was there before or in between stops and starts."""
    names = ("before", "web", "shop", "after")
    puppets = {name: Puppet(engine.directory / "puppets", name) for name in names}
    ids = {"before": engine.run("before", puppets["before"])}
    # Nobody calls the hook yet: the exporter finds it by its cgroup.
    site.await_reconciled(puppets["before"], engine.bridge.ipv4, ids["before"])

    registered.register()
    for name in ("web", "shop"):
        ids[name] = engine.run(name, puppets[name])
    puppets["web"].listen(PORT)
    flow = site.flow(puppets["shop"], engine.address("web"), PORT)
    owned(flow.client, ids["shop"])
    owned(flow.server, ids["web"])
    if restart:
        restart()
        flow = site.flow(puppets["shop"], engine.address("web"), PORT)
        owned(flow.client, ids["shop"])
        owned(flow.server, ids["web"])
    assert registered.adapter.state(registered.options)[:3] == (True, True, "")

    registered.unregister()
    registered.unregister()  # the second time is as the first: containers still name the hook
    assert site.hook_directory.exists()
    assert all(puppets[name].alive for name in ids)
    ids["after"] = engine.run("after", puppets["after"])
    site.await_reconciled(puppets["after"], engine.bridge.ipv4, ids["after"])
    for name in ("before", "web", "shop"):
        engine.command("stop", "--time", "5", name)
        engine.command("start", name)
        puppets[name].await_up()
        site.await_owned(puppets[name], engine.bridge.ipv4, ids[name])
    if restart:
        restart()
        assert all(puppet.alive for puppet in puppets.values())

    engine.command("rm", "--force", *names)
    registered.unregister()
    assert not site.hook_directory.exists(), registered.said


def life_of_pods(site: Site, engine: Containerd, registered: Registered) -> None:
    """The same with pods, whose containers are made anew rather than started again."""
    names = ("before", "web", "shop", "after")
    puppets = {
        name: {one: Puppet(engine.directory / "puppets", f"{name}-{one}") for one in ("app", "side")}
        for name in names
    }
    pods = {"before": engine.run_pod("before", puppets["before"])}
    own = pods["before"].containers
    site.await_reconciled(puppets["before"]["side"], engine.bridge.ipv4, own["side"])

    registered.register()
    engine.restart()
    assert registered.adapter.state(registered.options)[:3] == (True, True, "")
    for name in ("web", "shop"):
        pods[name] = engine.run_pod(name, puppets[name], namespace="shop")
    puppets["web"]["side"].listen(PORT)

    def flows() -> None:
        flow = site.flow(puppets["shop"]["app"], pods["web"].address, PORT)
        owned(flow.client, pods["shop"].containers["app"])
        owned(flow.server, pods["web"].containers["side"])
        assert (flow.client["workload"], flow.server["workload"]) == ("shop/shop/app", "shop/web/side")

    flows()
    engine.restart()
    flows()

    registered.unregister()
    engine.restart()
    flows()
    registered.unregister()  # nobody reads the hook from a file any more, but containers name it
    assert site.hook_directory.exists()
    pods["after"] = engine.run_pod("after", puppets["after"])
    site.await_reconciled(puppets["after"]["app"], engine.bridge.ipv4, pods["after"].containers["app"])
    for name in ("before", "web"):
        puppet, old = puppets[name]["app"], pods[name].containers["app"]
        engine.cri.runtime("StopContainer", container_id=old, timeout=5)
        engine.cri.runtime("RemoveContainer", container_id=old)
        new = pods[name].add("app", puppet)
        puppet.await_up()
        # A pod keeps the runtime that it was made with: the wrapper still goes between.
        site.await_owned(puppet, engine.bridge.ipv4, new)

    for pod in pods.values():
        pod.stop()
        pod.remove()
    registered.unregister()
    assert not site.hook_directory.exists(), registered.said
