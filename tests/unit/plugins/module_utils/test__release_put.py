# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pathlib
import random
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import typing as t
import zipfile

import pytest
from ansible_collections.steady.rollout.plugins.module_utils import _release_put, _release_unpack
from ansible_collections.steady.rollout.plugins.module_utils._release import ReleaseError
from ansible_collections.steady.rollout.plugins.module_utils._release_archive import Room
from ansible_collections.steady.rollout.plugins.module_utils._release_folder import Base
from ansible_collections.steady.rollout.plugins.module_utils._release_put import (
    Checksum,
    Put,
    Source,
    checksum,
    foreseen,
    owner,
    put,
)
from ansible_collections.steady.rollout.plugins.module_utils._release_reader import digests
from ansible_collections.steady.rollout.plugins.module_utils._release_shared import shared
from ansible_collections.steady.rollout.plugins.module_utils._release_switch import Wanted, switch
from ansible_collections.steady.rollout.plugins.module_utils._release_unpack import Owner

Info = t.Union[tarfile.TarInfo, str]


class Host:
    """One application's folder, with another file beside it that nobody may touch."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.path = root / "opt"
        self.base = Base(str(self.path))
        self.outside = root / "outside"
        self.outside.write_text("untouched")

    def put(self, archive: pathlib.Path, name: str = "1.0", **options: t.Any) -> Put:
        return put(*self._arguments(archive, name, options))

    def foresee(self, archive: pathlib.Path, name: str = "1.0", **options: t.Any) -> Put:
        owned_by = options.pop("owned_by", None)
        assert owned_by is None
        return foreseen(*self._arguments(archive, name, options)[:4])

    def _arguments(self, archive: pathlib.Path, name: str, options: dict[str, t.Any]) -> t.Any:
        links = shared(
            str(self.path / "shared"), options.pop("shared_files", ()), options.pop("shared_directories", ())
        )
        owned_by = options.pop("owned_by", Owner())
        return self.base, name, Source(archive=str(archive), **options), links, owned_by

    def tree(self, name: str = "1.0") -> dict[str, str]:
        """By path: the content of files, `-> target` of links, `/` of folders."""
        root = self.path / "releases" / name
        found = {}
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            if path.is_symlink():
                found[name] = f"-> {os.readlink(path)}"
            else:
                found[name] = "/" if path.is_dir() else path.read_bytes().decode()
        return found

    def assert_nothing_is_left(self, *releases: str) -> None:
        there = sorted(os.listdir(self.path / "releases")) if self.path.exists() else []
        assert there == sorted(releases)
        assert self.outside.read_text() == "untouched"
        assert set(os.listdir(self.root)) <= {"opt", "outside", "a", "b", "source"}


@pytest.fixture
def host(tmp_path: pathlib.Path) -> Host:
    return Host(tmp_path)


def tar(
    path: pathlib.Path, members: t.Mapping[str, bytes] | t.Sequence[tuple[Info, bytes]], mode: str = "w"
) -> pathlib.Path:
    pairs = list(members.items()) if isinstance(members, t.Mapping) else members
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for member, content in pairs:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            if info.isreg():
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def info(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.mode = kind, target, mode
    return found


def zipped(
    path: pathlib.Path, members: t.Mapping[str, bytes], modes: t.Mapping[str, int] | None = None
) -> pathlib.Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            one = zipfile.ZipInfo(name, (2024, 2, 29, 12, 0, 0))
            one.external_attr = (modes or {}).get(name, stat.S_IFREG | 0o644) << 16
            archive.writestr(one, content)
    return path


APP = {"app/bin/run": b"#!/bin/sh\n", "app/README": b"read\n"}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_is_put_whatever_compresses_it(host: Host, mode: str) -> None:
    done = host.put(tar(host.root / "a", APP, mode), strip=1)
    assert done.changed
    assert host.tree() == {"bin": "/", "bin/run": "#!/bin/sh\n", "README": "read\n"}
    assert done.release is not None
    assert (done.release.files, done.release.size) == (2, 15)
    host.assert_nothing_is_left("1.0")


def test_a_zip_is_put_with_its_modes_and_links(host: Host) -> None:
    names = {**APP, "app/lib/": b"", "app/link": b"bin/run"}
    modes = {"app/bin/run": stat.S_IFREG | 0o4755, "app/link": stat.S_IFLNK | 0o777, "app/lib/": stat.S_IFDIR | 0o700}
    host.put(zipped(host.root / "a", names, modes), strip=1)
    assert host.tree() == {"bin": "/", "bin/run": "#!/bin/sh\n", "README": "read\n", "lib": "/", "link": "-> bin/run"}
    place = host.path / "releases" / "1.0"
    assert stat.S_IMODE((place / "bin/run").stat().st_mode) == 0o755
    assert (place / "README").stat().st_mtime == 1709208000


@pytest.mark.parametrize("program", ["tar", "zip"])
def test_what_the_real_programs_make_is_put(host: Host, program: str) -> None:
    source = host.root / "source"
    (source / "d" / "e").mkdir(parents=True)
    (source / "d" / "x").write_text("x")
    (source / "d" / "x").chmod(0o750)
    (source / "d" / "e" / "l").symlink_to("../x")
    (source / ("n" * 200)).write_text("a long name")
    archive = host.root / "a"
    if program == "tar":
        os.link(source / "d" / "x", source / "h")
        subprocess.run(["tar", "-czf", archive, "-C", source, "."], check=True)
    else:
        subprocess.run(["zip", "-qry", archive, "."], cwd=source, check=True)
        (host.root / "a.zip").rename(archive)
    host.put(archive)
    found = host.tree()
    assert found.pop("h", "x") == "x"
    assert found == {"d": "/", "d/e": "/", "d/x": "x", "d/e/l": "-> ../x", "n" * 200: "a long name"}
    assert stat.S_IMODE((host.path / "releases/1.0/d/x").stat().st_mode) == 0o750


def test_a_second_put_changes_nothing(host: Host) -> None:
    archive = tar(host.root / "a", APP)
    first = host.put(archive)
    record = (host.path / "releases.json").read_bytes()
    again = host.put(archive)
    assert not again.changed
    assert again.release == first.release
    assert (host.path / "releases.json").read_bytes() == record


def test_a_release_that_is_there_needs_no_archive(host: Host) -> None:
    archive = tar(host.root / "a", APP)
    host.put(archive)
    archive.unlink()
    assert not host.put(archive).changed


def test_a_release_is_never_used_for_other_content(host: Host) -> None:
    host.put(tar(host.root / "a", APP))
    with pytest.raises(ReleaseError, match=r"is there already, with sha256 .* Give the new one a name of its own"):
        host.put(tar(host.root / "b", {"other": b""}))
    with pytest.raises(ReleaseError, match="is there already, with sha512"):
        host.put(host.root / "gone", checksum=Checksum("sha512", "0" * 128))
    assert "app" in host.tree()


def test_a_folder_that_nobody_recorded_is_not_taken_for_the_release(host: Host) -> None:
    (host.path / "releases" / "1.0").mkdir(parents=True)
    with pytest.raises(ReleaseError, match="not recorded what it is"):
        host.put(tar(host.root / "a", APP))


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_the_right_checksum_is_accepted(host: Host, algorithm: str) -> None:
    archive = tar(host.root / "a", APP)
    with archive.open("rb") as stream:
        digest = digests(stream)[algorithm]
    assert host.put(archive, checksum=checksum(f"{algorithm}:{digest.upper()}")).changed


def test_a_wrong_checksum_is_told_with_both_and_puts_nothing(host: Host) -> None:
    archive = tar(host.root / "a", APP)
    with archive.open("rb") as stream:
        digest = digests(stream)["sha256"]
    with pytest.raises(ReleaseError, match=f"sha256 {digest}, and {'0' * 64} was asked for.*fetch it again"):
        host.put(archive, checksum=Checksum("sha256", "0" * 64))
    host.assert_nothing_is_left()


@pytest.mark.parametrize("text", ["", "abc", "md5:" + "0" * 32, "sha256:", "sha256:" + "0" * 63, "sha256:" + "g" * 64])
def test_a_checksum_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ReleaseError, match="sha256: and 64, or sha512: and 128 hexadecimal digits"):
        checksum(text)


SYM, HARD, DIR = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE
HOSTILE: dict[str, list[tuple[Info, bytes]]] = {
    "absolute": [("ok", b""), ("/outside", b"bad")],
    "dots": [("ok", b""), ("../../../outside", b"bad")],
    "dots in the middle": [("a/../../../../outside", b"bad")],
    "link, then through it": [(info("l", SYM, "../../.."), b""), ("l/outside", b"bad")],
    "absolute link": [(info("l", SYM, "/etc"), b"")],
    "link by link": [
        ("a/b/x", b""),
        (info("a/b/up", SYM, "../.."), b""),
        (info("out", SYM, "a/b/up/../../../outside"), b""),
    ],
    "hard link outside": [(info("h", HARD, "../../../outside"), b"")],
    "absolute hard link": [(info("h", HARD, "/etc/shadow"), b"")],
    "hard link to a link": [(info("l", SYM, "x"), b""), (info("h", HARD, "l"), b"")],
    "character device": [(info("d", tarfile.CHRTYPE), b"")],
    "block device": [(info("d", tarfile.BLKTYPE), b"")],
    "named pipe": [(info("p", tarfile.FIFOTYPE), b"")],
    "unknown kind": [(info("p", b"V"), b"")],
    "twice": [("x", b"good"), ("x", b"bad")],
    "link over a file": [("x", b"good"), (info("x", SYM, "../../../outside"), b"")],
    "folder over a link": [(info("x", SYM, "."), b""), (info("x", DIR), b"")],
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_hostile_tar_is_refused_before_anything_is_written(
    host: Host, monkeypatch: pytest.MonkeyPatch, name: str, mode: str
) -> None:
    monkeypatch.setattr(_release_put, "unpack", lambda *_arguments: pytest.fail("it was unpacked"))
    archive = tar(host.root / "a", HOSTILE[name], mode)
    with pytest.raises(ReleaseError, match=r"is refused.*Nothing of it is left there"):
        host.put(archive)
    host.assert_nothing_is_left()
    with pytest.raises(ReleaseError, match="is refused"):
        host.foresee(archive)


@pytest.mark.parametrize(
    ("names", "modes"),
    [
        ({"/outside": b"bad"}, {}),
        ({"../../../outside": b"bad"}, {}),
        ({"l": b"../../..", "l/outside": b"bad"}, {"l": stat.S_IFLNK | 0o777}),
        ({"l": b"/etc"}, {"l": stat.S_IFLNK | 0o777}),
        ({"p": b""}, {"p": stat.S_IFIFO | 0o644}),
        ({"d/": b""}, {"d/": stat.S_IFLNK | 0o644}),
        ({"x": b"", "./x": b""}, {}),
    ],
)
def test_a_hostile_zip_is_refused(host: Host, names: dict[str, bytes], modes: dict[str, int]) -> None:
    with pytest.raises(ReleaseError, match="is refused"):
        host.put(zipped(host.root / "a", names, modes))
    host.assert_nothing_is_left()


def test_an_encrypted_zip_is_refused(host: Host) -> None:
    archive = zipped(host.root / "a", {"x": b"secret"})
    data = bytearray(archive.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(ReleaseError, match="'x' is encrypted"):
        host.put(archive)


def test_a_zip_that_has_less_than_it_says_is_refused(host: Host) -> None:
    archive = zipped(host.root / "a", {"x": b"0123456789"})
    data = bytearray(archive.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\1\2") + 24, 20)
    archive.write_bytes(data)
    with pytest.raises(ReleaseError, match="broken"):
        host.put(archive)
    host.assert_nothing_is_left()


def test_setuid_setgid_and_sticky_bits_are_dropped(host: Host) -> None:
    host.put(tar(host.root / "a", [(info("x", mode=0o6777), b""), (info("d", DIR, mode=0o3777), b"")]))
    assert stat.S_IMODE((host.path / "releases/1.0/x").stat().st_mode) == 0o755
    assert stat.S_IMODE((host.path / "releases/1.0/d").stat().st_mode) == 0o755


def test_a_sparse_file_of_a_petabyte_is_refused_by_its_size(host: Host) -> None:
    source = host.root / "source"
    with source.open("wb") as stream:
        stream.truncate(2**43)
    subprocess.run(["tar", "--sparse", "-cf", host.root / "a", "-C", host.root, "source"], check=True)
    assert (host.root / "a").stat().st_size < 2**20
    with pytest.raises(ReleaseError, match=r"needs 8.0 TiB or more, .* are free"):
        host.put(host.root / "a")
    host.assert_nothing_is_left()


def test_a_sparse_file_that_fits_has_its_content(host: Host) -> None:
    source = host.root / "source"
    with source.open("wb") as stream:
        stream.seek(2**20)
        stream.write(b"end")
    subprocess.run(["tar", "--sparse", "-cf", host.root / "a", "-C", host.root, "source"], check=True)
    host.put(host.root / "a")
    assert (host.path / "releases/1.0/source").read_bytes() == b"\0" * 2**20 + b"end"


def test_a_size_that_is_only_claimed_is_refused_without_reading_on(host: Host) -> None:
    huge = info("x")
    huge.size = 2**50
    (host.root / "a").write_bytes(huge.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(ReleaseError, match=r"needs 1024.0 TiB or more"):
        host.put(host.root / "a")
    host.assert_nothing_is_left()


def test_a_negative_size_is_refused(host: Host) -> None:
    block = bytearray(info("x").tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\xff" * 10 + b"\xfe\x00"
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    (host.root / "a").write_bytes(bytes(block) + bytes(1024))
    with pytest.raises(ReleaseError, match=r"a size of -512|is broken|no archive|breaks off"):
        host.put(host.root / "a")
    host.assert_nothing_is_left()


def big_tar(path: pathlib.Path, compress: t.Callable[[bytes], bytes]) -> pathlib.Path:
    content = random.Random(1).randbytes(200_000)
    plain = tar(path, {f"f{number}": content[number : number + 50_000] for number in range(20)})
    plain.write_bytes(compress(plain.read_bytes()))
    return plain


@pytest.mark.parametrize(
    "compress", [bytes, gzip.compress, bz2.compress, lzma.compress], ids=["tar", "gz", "bz2", "xz"]
)
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_an_archive_that_breaks_off_puts_nothing(host: Host, compress: t.Callable[[bytes], bytes], part: float) -> None:
    archive = big_tar(host.root / "a", compress)
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * part)])
    with pytest.raises(ReleaseError, match=r"is broken|no archive|breaks off|refused"):
        host.put(archive)
    host.assert_nothing_is_left()


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress], ids=["gz", "bz2", "xz"])
def test_an_archive_that_is_damaged_in_the_middle_puts_nothing(
    host: Host, compress: t.Callable[[bytes], bytes]
) -> None:
    archive = big_tar(host.root / "a", compress)
    data = bytearray(archive.read_bytes())
    for place in range(len(data) // 2, len(data) // 2 + 64):
        data[place] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(ReleaseError, match=r"is broken|no archive|breaks off|refused"):
        host.put(archive)
    host.assert_nothing_is_left()


def test_a_tar_with_a_damaged_header_is_not_half_a_release(host: Host) -> None:
    archive = tar(host.root / "a", {"one": b"1", "two": b"2", "three": b"3"})
    data = bytearray(archive.read_bytes())
    data[1024] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(ReleaseError, match="breaks off after 1 members, at byte 1024"):
        host.put(archive)
    host.assert_nothing_is_left()


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\3\4", b"\x1f\x8b", bytes(10240)])
def test_a_file_that_is_no_archive_is_refused(host: Host, content: bytes) -> None:
    (host.root / "a").write_bytes(content)
    with pytest.raises(ReleaseError, match=r"is no archive that can be read|is broken|has nothing in it"):
        host.put(host.root / "a")
    host.assert_nothing_is_left()


def test_an_archive_that_is_not_there_is_told(host: Host) -> None:
    with pytest.raises(ReleaseError, match="is not a file on this host"):
        host.put(host.root / "none")
    host.assert_nothing_is_left()


def test_a_disk_without_room_is_told_in_numbers(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Base, "room", lambda _self: Room(20 * 2**20, None))
    with pytest.raises(ReleaseError, match=r"needs 8.0 KiB or more, 32 MiB .*, and 20 MiB are free"):
        host.put(tar(host.root / "a", {"x": b"1"}))
    host.assert_nothing_is_left()


def full_disk(*_arguments: t.Any) -> None:
    raise OSError(28, "No space left on device")


def fail_at_the_third_file(monkeypatch: pytest.MonkeyPatch, fail: t.Callable[..., None]) -> None:
    write, calls = _release_unpack._write, iter(range(100))

    def third(*arguments: t.Any) -> None:
        write(*arguments)
        if next(calls) == 2:
            fail()

    monkeypatch.setattr(_release_unpack, "_write", third)


@pytest.mark.parametrize("place", ["write", "flush", "record"])
def test_a_disk_that_becomes_full_leaves_nothing(host: Host, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    host.put(tar(host.root / "b", {"x": b"old"}), "0.9")
    switch(host.base, Wanted("0.9", 5))
    if place == "write":
        fail_at_the_third_file(monkeypatch, full_disk)
    elif place == "flush":
        monkeypatch.setattr(_release_put, "flush", full_disk)
    else:
        monkeypatch.setattr(Base, "write", full_disk)
    with pytest.raises(ReleaseError, match=r"the disk became full.*now .* are free.*Make room"):
        host.put(tar(host.root / "a", dict.fromkeys("abcde", b"x")))
    host.assert_nothing_is_left("0.9")
    assert (host.path / "current" / "x").read_text() == "old"
    assert [one.id for one in host.base.history().releases] == ["0.9"]


KILLED = """
import os, signal, sys
from ansible_collections.steady.rollout.plugins.module_utils import _release_put, _release_unpack
from ansible_collections.steady.rollout.plugins.module_utils._release_folder import Base
from ansible_collections.steady.rollout.plugins.module_utils._release_shared import Shared
path, archive, place = sys.argv[1:]
left = [3]
def killing(function):
    def call(*arguments):
        function(*arguments)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return call
if place == "unpack":
    _release_unpack._write = killing(_release_unpack._write)
else:
    left[0] = 1
    owner, name = {"flush": (_release_put, "flush"), "record": (Base, "write"), "publish": (Base, "publish")}[place]
    setattr(owner, name, killing(getattr(owner, name)))
source = _release_put.Source(archive=archive)
_release_put.put(Base(path), "1.0", source, Shared(path + "/shared"), _release_unpack.Owner())
"""


@pytest.mark.parametrize("place", ["unpack", "flush", "record", "publish"])
def test_a_put_that_is_killed_leaves_what_runs_alone_and_the_next_cleans_up(host: Host, place: str) -> None:
    host.put(tar(host.root / "b", {"x": b"old"}), "0.9")
    switch(host.base, Wanted("0.9", 5))
    archive = tar(host.root / "a", dict.fromkeys("abcde", b"new"))
    done = subprocess.run([sys.executable, "-c", KILLED, str(host.path), str(archive), place], check=False)
    assert done.returncode == -signal.SIGKILL
    published = place == "publish"
    assert (host.path / "current" / "x").read_text() == "old"
    assert host.base.present() == (["0.9", "1.0"] if published else ["0.9"])
    assert [one.id for one in host.base.history().releases] == host.base.present()
    assert len(os.listdir(host.path / "releases")) == (3 if published else 2)
    assert host.put(archive).changed is not published
    assert host.tree() == dict.fromkeys("abcde", "new")
    host.assert_nothing_is_left("0.9", "1.0")


def test_nobody_else_may_enter_what_is_not_whole(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def look() -> None:
        (incoming,) = (host.path / "releases").glob(".incoming-*")
        seen.append(stat.S_IMODE(incoming.stat().st_mode))

    fail_at_the_third_file(monkeypatch, look)
    host.put(tar(host.root / "a", dict.fromkeys("abcde", b"")))
    assert seen == [0o700]


def test_folders_may_be_entered_whatever_the_mask_of_the_task(host: Host) -> None:
    mask = os.umask(0o077)
    try:
        host.put(tar(host.root / "a", {"a/x": b""}), shared_directories=["log/old"])
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(mask)
    for place in ("", "releases", "releases/1.0", "releases/1.0/a", "releases/1.0/log", "shared", "shared/log/old"):
        assert stat.S_IMODE((host.path / place).stat().st_mode) == 0o755, place


@pytest.mark.parametrize("place", ["", "releases"])
def test_a_folder_that_others_may_change_is_refused(host: Host, place: str) -> None:
    (host.path / "releases").mkdir(parents=True)
    (host.path / place).chmod(0o775)
    with pytest.raises(ReleaseError, match=r"can be changed by others.*chmod go-w"):
        host.put(tar(host.root / "a", APP))


def test_a_link_for_the_releases_is_refused(host: Host) -> None:
    host.path.mkdir()
    (host.root / "b").mkdir()
    (host.path / "releases").symlink_to(host.root / "b")
    with pytest.raises(ReleaseError, match="releases is no folder"):
        host.put(tar(host.root / "a", APP))
    assert os.listdir(host.root / "b") == []


def test_all_of_a_release_is_its_owners(host: Host) -> None:
    # Only root gives files away.
    wanted = Owner(12345, 54321) if os.geteuid() == 0 else Owner(os.geteuid(), os.getegid())
    members: list[tuple[Info, bytes]] = [("a/x", b""), (info("l", SYM, "a/x"), b""), (info("h", HARD, "a/x"), b"")]
    host.put(
        tar(host.root / "a", members),
        owned_by=wanted,
        shared_directories=["log"],
    )
    place = host.path / "releases" / "1.0"
    for path in (place, *place.rglob("*"), host.path / "shared", host.path / "shared" / "log"):
        assert Owner(path.lstat().st_uid, path.lstat().st_gid) == wanted, path
    assert (host.path / "releases").stat().st_uid == os.geteuid()


def test_an_owner_without_a_group_brings_its_own() -> None:
    assert owner("root", None) == Owner(0, 0)
    assert owner(None, "0") == Owner(-1, 0)
    assert owner(None, None) == Owner(-1, -1)


def test_an_owner_that_is_not_there_is_told() -> None:
    with pytest.raises(ReleaseError, match="no such owner or group"):
        owner("nobody-of-this-name", None)


def test_shared_folders_are_made_and_linked(host: Host) -> None:
    archive = tar(host.root / "a", {"x": b"", "log/own": b"left out"})
    done = host.put(archive, shared_directories=["log", "public/uploads"])
    assert done.shared == [str(host.path / "shared/log"), str(host.path / "shared/public/uploads")]
    found = host.tree()
    assert found["log"] == "-> ../../shared/log"
    assert found["public/uploads"] == "-> ../../../shared/public/uploads"
    (host.path / "releases/1.0/public/uploads/y").write_text("kept")
    assert (host.path / "shared/public/uploads/y").read_text() == "kept"
    assert host.put(tar(host.root / "b", {"z": b""}), "2.0", shared_directories=["log", "public/uploads"]).shared == []
    assert (host.path / "releases/2.0/public/uploads/y").read_text() == "kept"


def test_a_shared_file_gets_the_content_of_the_first_release_and_keeps_it(host: Host) -> None:
    first = tar(host.root / "a", [(info("config/local.yml", mode=0o640), b"first")])
    assert host.put(first, shared_files=["config/local.yml"]).shared == [str(host.path / "shared/config/local.yml")]
    host.put(tar(host.root / "b", {"config/local.yml": b"second"}), "2.0", shared_files=["config/local.yml"])
    for name in ("1.0", "2.0"):
        assert (host.path / "releases" / name / "config/local.yml").read_text() == "first"
    assert stat.S_IMODE((host.path / "shared/config/local.yml").stat().st_mode) == 0o640


def test_a_shared_file_that_nobody_has_is_told_and_puts_nothing(host: Host) -> None:
    archive = tar(host.root / "a", APP)
    for call in (host.put, host.foresee):
        with pytest.raises(ReleaseError, match=r"shared file .*shared/config/local.yml is not there.*put it there"):
            call(archive, shared_files=["config/local.yml"])
    host.assert_nothing_is_left()


def test_a_shared_file_below_a_file_of_the_release_is_refused(host: Host) -> None:
    with pytest.raises(ReleaseError, match="log/x is shared, and the release has a file at log"):
        host.put(tar(host.root / "a", {"log": b""}), shared_directories=["log/x"])
    host.assert_nothing_is_left()


def test_a_shared_place_in_another_is_refused(host: Host) -> None:
    with pytest.raises(ReleaseError, match="log/old is shared twice, or is in log"):
        host.put(tar(host.root / "a", APP), shared_directories=["log", "log/old"])


def test_nothing_is_made_through_a_link_in_the_shared_folder(host: Host) -> None:
    (host.root / "b").mkdir()
    (host.path / "shared").mkdir(parents=True)
    (host.path / "shared" / "log").symlink_to(host.root / "b")
    with pytest.raises(ReleaseError, match="is a link, or no folder"):
        host.put(tar(host.root / "a", APP), shared_directories=["log/old"])
    assert os.listdir(host.root / "b") == []
    host.assert_nothing_is_left()


def test_a_shared_folder_may_itself_be_a_link(host: Host) -> None:
    (host.root / "b").mkdir()
    (host.path / "shared").mkdir(parents=True)
    (host.path / "shared" / "log").symlink_to(host.root / "b")
    assert host.put(tar(host.root / "a", APP), shared_directories=["log"]).shared == []
    assert host.tree()["log"] == "-> ../../shared/log"


def test_a_file_where_a_shared_folder_is_to_be_is_told(host: Host) -> None:
    (host.path / "shared").mkdir(parents=True)
    (host.path / "shared" / "log").write_text("")
    with pytest.raises(ReleaseError, match="is to be a shared folder, and is something else"):
        host.put(tar(host.root / "a", APP), shared_directories=["log"])


def test_what_is_foreseen_is_what_is_done_and_changes_nothing(host: Host) -> None:
    archive = tar(host.root / "a", APP)
    before = host.foresee(archive, shared_directories=["log"])
    assert not host.path.exists()
    done = host.put(archive, shared_directories=["log"])
    assert (before.changed, list(before.shared)) == (done.changed, list(done.shared))
    assert before.release is not None
    assert done.release is not None
    assert (before.release.files, before.release.size, before.release.sha256) == (2, 15, done.release.sha256)
    assert not host.foresee(archive, shared_directories=["log"]).changed


def test_an_archive_that_a_task_before_would_have_put_there_is_foreseen(host: Host) -> None:
    assert host.foresee(host.root / "none") == Put(True, None, [])
    assert not host.path.exists()


def test_content_is_written_as_it_is(host: Host) -> None:
    content = random.Random(2).randbytes(3 * 2**20 + 17)
    host.put(tar(host.root / "a", {"x": content}, "w:gz"))
    assert (host.path / "releases/1.0/x").read_bytes() == content
