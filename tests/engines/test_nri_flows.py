# SPDX-License-Identifier: Apache-2.0
"""The whole life of a registration by NRI, with real containerds: whose every flow is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.scenarios import PORT, owned
from tests.engines.site import Site
from tests.rig import debian
from tests.rig.containerd import Containerd
from tests.rig.exporter import flowtag
from tests.rig.leavings import scratch, sweep
from tests.rig.nri import Plugin, configuration
from tests.rig.puppet import Puppet


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a path that is short enough for NRI's socket."""
    path = scratch("ftn")
    yield path
    sweep(path)


@pytest.mark.parametrize("release", ["trixie", "sid"])
def test_nri_life_of_a_registration(
    folder: Path, pin_directory: Path, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.7.24 and 2.1.9, at the time of writing."""
    try:
        binaries = debian.unpacked(release, "containerd") / "usr/bin"
    except RuntimeError as error:
        pytest.skip(f"needs containerd of Debian {release}: {error}")
    monkeypatch.setenv("PATH", f"{binaries}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    with (
        Containerd(binaries=binaries, plugins=configuration(folder)) as engine,
        Site(folder, pin_directory, engine.cgroup_root, runtime="") as site,
    ):
        names = ("before", "web", "shop", "after")
        puppets = {name: Puppet(folder / "puppets", name) for name in names}
        side = Puppet(folder / "puppets", "web-side")
        pods = {"before": engine.run_pod("before", {"app": puppets["before"]})}
        place = (
            *("--runtime", "containerd", "--method", "nri", "--file", str(engine.config)),
            *("--hook-directory", str(site.hook_directory), "--run-directory", str(site.run)),
        )
        assert "flowtag nri --socket" in flowtag("register", *place)
        with Plugin(folder, site.run) as plugin:
            plugin.await_connected()
            pods["web"] = engine.run_pod("web", {"app": puppets["web"], "side": side}, namespace="shop")
            pods["shop"] = engine.run_pod("shop", {"app": puppets["shop"]}, namespace="shop")
            side.listen(PORT)

            def flows() -> None:
                flow = site.flow(puppets["shop"], pods["web"].address, PORT)
                owned(flow.client, pods["shop"].containers["app"])
                owned(flow.server, pods["web"].containers["side"])
                assert (flow.client["workload"], flow.server["workload"]) == (
                    "shop/shop/app",
                    "shop/web/side",
                )

            flows()
            assert "registered already" in flowtag("register", *place)
            engine.restart()
            plugin.await_connected(times=2)
            flows()
        flows()  # the plugin has ended, not the containers
        pods["after"] = engine.run_pod("after", {"app": puppets["after"]})
        for name in ("before", "after"):
            site.await_reconciled(puppets[name], engine.bridge.ipv4, pods[name].containers["app"])
        for name in ("before", "web"):
            old = pods[name].containers["app"]
            engine.cri.runtime("StopContainer", container_id=old, timeout=5)
            engine.cri.runtime("RemoveContainer", container_id=old)
            pods[name].add("app", puppets[name])
            puppets[name].await_up()
        for pod in pods.values():
            pod.stop()
            pod.remove()
        said = flowtag("unregister", *place)
        assert not site.hook_directory.exists(), said
