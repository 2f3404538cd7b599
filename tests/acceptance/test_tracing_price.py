"""What a collector that is down, hangs or fails costs those who ask: nothing."""

from support.mesh import Mesh
from support.side_by_side import Beside


def test_no_request_is_slower_for_what_a_collector_does(tmp_path):
    """The short form of test_truth.py. Sidecars side by side, asked in turn, so that what else happens meets all alike."""
    mesh = Mesh(tmp_path)

    async def story():
        async with Beside(mesh) as beside:
            parts = [await beside.measure(120) for _ in range(4)]
            for name in parts[0]:
                # what a collector does would show in every part
                assert min(part[name][0] for part in parts) <= 1.2, f"{name}: {parts}"
                assert min(part[name][1] for part in parts) <= 1.5, f"{name}: {parts}"
            await beside.accounted()

    mesh.run(story(), 50.0)
