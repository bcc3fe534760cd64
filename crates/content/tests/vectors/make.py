"""Makes the vectors beside it, of data that tests/vectors.rs makes again.

    pip install libtorrent==2.1.1 torf==4.3.1      and transmission-create in the path
    python3 make.py                                run in the folder of the vectors
"""
import hashlib, os, subprocess, tempfile, warnings

import libtorrent as lt
import torf

warnings.simplefilter("ignore", DeprecationWarning)
HERE = os.getcwd()
TRACKERS = ["http://tracker.example/announce", "udp://other.example:80"]
FILES = {
    "one.bin": 100_000,
    "many/a.txt": 5,
    "many/b/big.bin": 150_000,
    "many/b/exact.bin": 65_536,
    "many/empty": 0,
    "many/z.bin": 40_000,
}


def data(name, length):
    blocks = (hashlib.sha256(b"%s %d" % (name.encode(), at)).digest() for at in range(length // 32 + 1))
    return b"".join(blocks)[:length]


def by_libtorrent(source, out, flags, piece=32_768):
    files = lt.file_storage()
    lt.add_files(files, source, flags=int(flags))
    torrent = lt.create_torrent(files, piece, flags)
    for tier, url in enumerate(TRACKERS):
        torrent.add_tracker(url, tier)
    lt.set_piece_hashes(torrent, os.path.dirname(source))
    entry = torrent.generate()
    entry.pop(b"creation date", None)
    with open(f"{HERE}/{out}.torrent", "wb") as file:
        file.write(lt.bencode(entry))
    info = lt.torrent_info(f"{HERE}/{out}.torrent")
    print(out, lt.make_magnet_uri(info))


with tempfile.TemporaryDirectory() as top:
    for name, length in FILES.items():
        os.makedirs(os.path.dirname(f"{top}/{name}"), exist_ok=True)
        with open(f"{top}/{name}", "wb") as file:
            file.write(data(name, length))
    make = lt.create_torrent
    for source in ["one.bin", "many"]:
        short = source.split(".")[0]
        by_libtorrent(f"{top}/{source}", f"libtorrent-{short}-v1", make.v1_only)
        by_libtorrent(f"{top}/{source}", f"libtorrent-{short}-v2", make.v2_only)
        by_libtorrent(f"{top}/{source}", f"libtorrent-{short}-hybrid", 0)
    by_libtorrent(f"{top}/many", "libtorrent-many-deep", make.v2_only, 16_384)

    torrent = torf.Torrent(f"{top}/many", trackers=[[url] for url in TRACKERS], piece_size=32_768,
                           private=True, creation_date=None, created_by=None)
    torrent.generate()
    torrent.write(f"{HERE}/torf-many-v1.torrent", overwrite=True)
    print("torf-many-v1", torrent.magnet())

    subprocess.run(["transmission-create", "--anonymize", "-o", f"{HERE}/transmission-many-v1.torrent",
                    "-s", "32", "-t", TRACKERS[0], "-t", TRACKERS[1], f"{top}/many"], check=True)

    # A link to a file, which BEP 47 knows.
    os.symlink("a.txt", f"{top}/many/link")
    by_libtorrent(f"{top}/many", "libtorrent-link-hybrid", make.symlinks)
