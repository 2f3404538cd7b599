"""Reading admin APIs; what `flui admin` and `flui top` make of it stands in their tests."""

import socket

import pytest

from flui.runtime.adminclient import NoAnswerError, clean, connect, get, socket_of, sockets


def test_only_sockets_of_ours_are_found(tmp_path, monkeypatch):
    for name in ("flui-b.sock", "flui-a.sock", "other.sock"):
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(tmp_path / name))
    (tmp_path / "flui-file.sock").touch()
    (tmp_path / "flui-gone.sock").symlink_to(tmp_path / "nowhere")
    (tmp_path / "flui-link.sock").symlink_to(tmp_path / "flui-a.sock")
    assert sockets(tmp_path) == [str(tmp_path / "flui-a.sock"), str(tmp_path / "flui-b.sock")]
    assert str(tmp_path / "other.sock") in sockets(tmp_path, "*.sock")
    owner = (tmp_path / "flui-a.sock").stat().st_uid
    monkeypatch.setattr("os.getuid", lambda: owner + 1)
    assert sockets(tmp_path) == ([] if owner else [str(tmp_path / "flui-a.sock"), str(tmp_path / "flui-b.sock")])


@pytest.mark.parametrize("where", ["", "nonsense", ":80", "localhost:", "localhost:x"])
def test_what_is_no_address_is_wrong(where):
    with pytest.raises(ValueError, match="neither a path nor HOST:PORT"):
        connect(where)


def test_a_service_leads_to_its_socket(tmp_path):
    assert socket_of("orders", tmp_path) == str(tmp_path / "flui-orders.sock")
    with pytest.raises(ValueError, match="not a service's name"):
        socket_of("../etc", tmp_path)


def test_what_is_no_answer_is_told_with_its_address(tmp_path):
    with pytest.raises(NoAnswerError, match="nobody listens on "):
        get(str(tmp_path / "none.sock"), "/live")
    with pytest.raises(NoAnswerError, match=str(tmp_path)):
        get(str(tmp_path / ("x" * 200)), "/live")  # longer than an address of a socket may be


def test_text_is_shown_but_drives_nothing():
    assert clean("a\x1b[2J\x9b\u202eb…") == "a\\x1b[2J\\x9b\\x202eb…"
