//! Torrents that other programs made of known files (`vectors/make.py`), and what we make of the
//! same files.
#![allow(clippy::unwrap_used)]

use sha2::{Digest, Sha256};
use sparewire_content::{
    BLOCK_LEN, Builder, Format, Hash, InfoHashes, Magnet, Metainfo, MetainfoError, PieceCheck,
    merkle::leaf,
};

const TRACKERS: [&str; 2] = ["http://tracker.example/announce", "udp://other.example:80"];
const MANY: [(&str, usize); 5] = [
    ("a.txt", 5),
    ("b/big.bin", 150_000),
    ("b/exact.bin", 65_536),
    ("empty", 0),
    ("z.bin", 40_000),
];

struct Vector {
    name: &'static str,
    bytes: &'static [u8],
    /// What its maker says of it.
    v1: &'static str,
    v2: &'static str,
    pieces: u32,
}

macro_rules! vector {
    ($name:literal, $v1:literal, $v2:literal, $pieces:literal) => {
        Vector {
            name: $name,
            bytes: include_bytes!(concat!("vectors/", $name, ".torrent")),
            v1: $v1,
            v2: $v2,
            pieces: $pieces,
        }
    };
}

const VECTORS: [Vector; 10] = [
    vector!("libtorrent-one-v1", "a52d22407bbf3157ebc880a874cd229de91ed997", "", 4),
    vector!(
        "libtorrent-one-v2",
        "",
        "462d348877148b2b149b4a199d5a2e36f4673784aa166ffb40f1bffb46d24ada",
        4
    ),
    vector!(
        "libtorrent-one-hybrid",
        "9c3d4c4ce55796bdd0354e416f24058e14bddc6b",
        "3c3ff97ba31a0b45ada86f5a5fbc958ba76145393d9470c02edc09b0acd2f7ae",
        4
    ),
    vector!("libtorrent-many-v1", "50d9cac690f836fd9a3253cf485169d62e24feff", "", 8),
    vector!(
        "libtorrent-many-v2",
        "",
        "38de29ea47f91af4409accc2e39f7da9e4668e1ba59daa52fa281f9a0e650f87",
        10
    ),
    vector!(
        "libtorrent-many-hybrid",
        "b567a1aed9ef02ae6b7fa99828b9a15b7abc688e",
        "bd14c16d5cff81ee8aa43f8b7ea8feaa80bb2ac15e56eed359691212cde9b469",
        10
    ),
    vector!(
        "libtorrent-many-deep",
        "",
        "f27a5b72587cb65f8b9b1b24f1f7838bf2f672bc48c7eb2a396ac3f7c0b8ad41",
        18
    ),
    vector!(
        "libtorrent-link-hybrid",
        "bb221fe87f7487fd8b0a22a2da2f01e1f49ff011",
        "1de0a7c13e3d43472878a94028dd9c3fd406dd44bc1b2bbf6f5edd506246a9b8",
        10
    ),
    vector!("torf-many-v1", "abb7023ddee418288b524a98a6931c6159e0e9c7", "", 8),
    // Its maker prints no hash.
    vector!("transmission-many-v1", "-", "", 8),
];

fn vectors() -> impl Iterator<Item = (&'static Vector, Metainfo)> {
    VECTORS.iter().map(|vector| match Metainfo::from_torrent(vector.bytes) {
        Ok(metainfo) => (vector, metainfo),
        Err(error) => panic!("{}: {error}", vector.name),
    })
}

/// The bytes of a file, as `make.py` has them.
fn data(name: &str, len: usize) -> Vec<u8> {
    let block = |at: usize| Sha256::digest(format!("{name} {at}"));
    let mut bytes: Vec<u8> = (0..=len / 32).flat_map(block).collect();
    bytes.truncate(len);
    bytes
}

fn data_of(metainfo: &Metainfo, file: usize) -> Vec<u8> {
    let path = metainfo.layout().path(file).to_str().unwrap().replace('\\', "/");
    data(&path, metainfo.layout().files()[file].len() as usize)
}

/// The data bytes of a piece, out of the files.
fn piece_of(metainfo: &Metainfo, files: &[Vec<u8>], piece: u32) -> Vec<u8> {
    let len = metainfo.geometry().len_of(piece);
    let mut bytes = Vec::new();
    for extent in metainfo.layout().extents(piece, 0, len) {
        let begin = extent.offset as usize;
        match extent.file {
            Some(file) => bytes.extend(&files[file][begin..begin + extent.len as usize]),
            None => bytes.resize(bytes.len() + extent.len as usize, 0),
        }
    }
    assert_eq!(bytes.len(), len as usize);
    bytes
}

fn files_of(metainfo: &Metainfo) -> Vec<Vec<u8>> {
    (0..metainfo.layout().files().len()).map(|file| data_of(metainfo, file)).collect()
}

fn passes(check: PieceCheck, bytes: &[u8]) -> bool {
    let mut hasher = check.hasher();
    // In parts that fit no block.
    bytes.chunks(7_001).for_each(|part| hasher.update(part));
    hasher.passes()
}

#[test]
fn their_torrents_are_read_as_their_makers_describe_them() {
    for (vector, metainfo) in vectors() {
        let hashes = metainfo.hashes();
        assert_eq!(hashes.v2().map(hex::encode).unwrap_or_default(), vector.v2, "{}", vector.name);
        if vector.v1 != "-" {
            assert_eq!(
                hashes.v1().map(hex::encode).unwrap_or_default(),
                vector.v1,
                "{}",
                vector.name
            );
        }
        assert_eq!(metainfo.geometry().pieces(), vector.pieces, "{}", vector.name);
        assert_eq!(metainfo.trackers().concat(), TRACKERS, "{}", vector.name);
        assert_eq!(metainfo.is_private(), vector.name.starts_with("torf"), "{}", vector.name);
        assert_eq!(metainfo.renamed(), 0, "{}", vector.name);
        let layout = metainfo.layout();
        let mut files: Vec<_> = (0..layout.files().len())
            .map(|file| {
                (layout.path(file).to_str().unwrap().to_owned(), layout.files()[file].len())
            })
            .collect();
        files.sort();
        if vector.name.contains("one") {
            assert_eq!(metainfo.name(), "one.bin");
            assert_eq!(files, [("one.bin".to_owned(), 100_000)]);
        } else {
            assert_eq!(metainfo.name(), "many");
            // transmission leaves files without bytes out.
            let kept =
                |(_, len): &&(&str, usize)| *len > 0 || !vector.name.contains("transmission");
            let expected =
                MANY.iter().filter(kept).map(|(path, len)| (format!("many/{path}"), *len as u64));
            assert_eq!(files, expected.collect::<Vec<_>>(), "{}", vector.name);
        }
        let data_len: usize = files.iter().map(|(_, len)| *len as usize).sum();
        assert_eq!(layout.data_len(), data_len as u64);
        assert_eq!(metainfo.geometry().data_len(), data_len as u64);
    }
}

#[test]
fn every_piece_of_their_data_passes_and_none_with_a_wrong_bit() {
    for (vector, metainfo) in vectors() {
        let files = files_of(&metainfo);
        for piece in 0..metainfo.geometry().pieces() {
            let check = metainfo.check(piece).unwrap();
            let mut bytes = piece_of(&metainfo, &files, piece);
            assert!(passes(check, &bytes), "{} piece {piece}", vector.name);
            let leaves: Vec<_> = bytes.chunks(BLOCK_LEN as usize).map(leaf).collect();
            assert_eq!(check.leaves_pass(&leaves), metainfo.hashes().v2().is_some());
            assert!(!check.leaves_pass(&leaves[1..]));
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            assert!(!passes(check, &bytes), "{} piece {piece}", vector.name);
            bytes[middle] ^= 1;
            assert!(!passes(check, &bytes[1..]), "{} piece {piece}", vector.name);
            bytes.push(0);
            assert!(!passes(check, &bytes), "{} piece {piece}", vector.name);
        }
        assert_eq!(metainfo.check(metainfo.geometry().pieces()), None);
    }
}

#[test]
fn what_is_written_as_a_file_or_a_link_is_the_same_torrent() {
    for (_, metainfo) in vectors() {
        assert_eq!(Metainfo::from_torrent(&metainfo.to_torrent()).as_ref(), Ok(&metainfo));
        let link: Magnet = metainfo.magnet().to_string().parse().unwrap();
        assert_eq!(&link.hashes, metainfo.hashes());
        assert_eq!(link.name.as_deref(), Some(metainfo.name()));
        assert_eq!(link.trackers, TRACKERS);
    }
}

/// Sets all piece layers of `learner` by asking `teacher` as peers do.
fn learn_layers(learner: &mut Metainfo, teacher: &Metainfo) {
    for file in learner.missing_layers().collect::<Vec<_>>() {
        let mut layer = Vec::<Hash>::new();
        for request in learner.ask_layer(file) {
            let answer = teacher.answer(&request, |_| None).unwrap();
            layer.extend(learner.proven(&request, &answer).unwrap());
        }
        layer.truncate(learner.layout().pieces(file).len());
        learner.set_layer(file, layer).unwrap();
    }
}

#[test]
fn behind_a_link_the_info_dictionary_and_the_layers_come_from_peers() {
    for (vector, metainfo) in vectors() {
        let mut learned = Metainfo::from_info(metainfo.info_bytes(), metainfo.hashes()).unwrap();
        let missing = learned.missing_layers().count();
        assert_eq!(missing > 0, metainfo.hashes().v2().is_some(), "{}", vector.name);
        learn_layers(&mut learned, &metainfo);
        assert_eq!(learned.missing_layers().count(), 0);
        for piece in 0..metainfo.geometry().pieces() {
            assert_eq!(learned.check(piece), metainfo.check(piece));
        }
    }
}

#[test]
fn the_leaves_of_a_piece_are_proven_and_a_changed_one_is_not() {
    for (vector, metainfo) in vectors() {
        let files = files_of(&metainfo);
        let leaves = |piece| {
            let bytes = piece_of(&metainfo, &files, piece);
            Some(bytes.chunks(BLOCK_LEN as usize).map(leaf).collect::<Vec<_>>())
        };
        for piece in 0..metainfo.geometry().pieces() {
            let asked = metainfo.ask_leaves(piece);
            let trees = metainfo.hashes().v2().is_some();
            assert!(trees || asked.is_empty());
            assert!(asked.len() <= 1, "{}", vector.name);
            for request in asked {
                let mut answer = metainfo.answer(&request, leaves).unwrap();
                let proven = metainfo.proven(&request, &answer).unwrap();
                let blocks = metainfo.geometry().blocks_of(piece) as usize;
                assert!(metainfo.check(piece).unwrap().leaves_pass(&proven[..blocks]));
                answer[40] ^= 1;
                assert_eq!(metainfo.proven(&request, &answer), None);
                answer[40] ^= 1;
                assert_eq!(metainfo.proven(&request, &answer[..answer.len() - 32]), None);
                // A seeder whose file has changed since sends nothing.
                let wrong = |piece| leaves(piece).map(|leaves| vec![[7; 32]; leaves.len()]);
                assert_eq!(metainfo.answer(&request, wrong), None);
            }
        }
    }
}

fn built(name: &str, files: &[(&str, usize)], format: Format, private: bool) -> Metainfo {
    let builder = if files.is_empty() {
        Builder::file("one.bin", 100_000).unwrap()
    } else {
        // In an order of no meaning.
        let path = |path: &str| path.split('/').map(Into::into).collect();
        let files = files.iter().rev().map(|(name, len)| (path(name), *len as u64)).collect();
        Builder::folder(name, files).unwrap()
    };
    let builder = builder.format(format).piece_len(32_768).unwrap();
    let tiers = TRACKERS.iter().map(|url| vec![url.to_string()]).collect();
    let mut builder = builder.trackers(tiers);
    if private {
        builder = builder.private();
    }
    while let Some((given, left)) = builder.wanted() {
        let (path, len) = match files.iter().rev().nth(given) {
            None => ("one.bin".to_owned(), 100_000),
            Some((path, len)) => (format!("{name}/{path}"), *len),
        };
        let begin = len - left as usize;
        let end = len.min(begin + 9_999);
        builder.update(&data(&path, len)[begin..end]).unwrap();
    }
    builder.finish().unwrap()
}

fn theirs(name: &str) -> Metainfo {
    vectors().find(|(vector, _)| vector.name == name).unwrap().1
}

#[test]
fn of_the_same_files_we_make_the_same_torrent() {
    for (name, ours) in [
        ("libtorrent-one-v1", built("one.bin", &[], Format::V1, false)),
        ("libtorrent-one-v2", built("one.bin", &[], Format::V2, false)),
        ("libtorrent-one-hybrid", built("one.bin", &[], Format::Hybrid, false)),
        ("libtorrent-many-v2", built("many", &MANY, Format::V2, false)),
        ("torf-many-v1", built("many", &MANY, Format::V1, true)),
    ] {
        assert_eq!(ours, theirs(name), "{name}");
    }
}

#[test]
fn our_hybrid_has_their_trees_and_v1_pieces() {
    let ours = built("many", &MANY, Format::Hybrid, false);
    let theirs = theirs("libtorrent-many-hybrid");
    assert_eq!(ours.geometry(), theirs.geometry());
    assert_eq!(ours.layout().files(), theirs.layout().files());
    // libtorrent puts padding after the last file too, and we do not.
    assert_eq!((ours.layout().end(), theirs.layout().end()), (302_144, 327_680));
    let files = files_of(&ours);
    for piece in 0..ours.geometry().pieces() {
        assert_eq!(ours.check(piece), theirs.check(piece));
        assert!(passes(ours.check(piece).unwrap(), &piece_of(&ours, &files, piece)));
    }
}

#[test]
fn the_wrong_torrent_behind_a_link_is_refused() {
    let one = theirs("libtorrent-one-hybrid");
    let other = theirs("libtorrent-many-hybrid");
    let info = one.info_bytes();
    assert_eq!(Metainfo::from_info(info, other.hashes()), Err(MetainfoError::Other));
    for expected in [
        InfoHashes::new(one.hashes().v1(), None).unwrap(),
        InfoHashes::new(None, one.hashes().v2()).unwrap(),
    ] {
        let read = Metainfo::from_info(info, &expected).unwrap();
        assert_eq!(read.hashes(), one.hashes());
    }
    for mixed in [
        InfoHashes::new(one.hashes().v1(), other.hashes().v2()).unwrap(),
        InfoHashes::new(other.hashes().v1(), one.hashes().v2()).unwrap(),
    ] {
        assert_eq!(Metainfo::from_info(info, &mixed), Err(MetainfoError::Other));
    }
}

#[test]
fn no_prefix_of_a_torrent_is_one_and_no_damage_panics() {
    for (vector, metainfo) in vectors() {
        for end in 0..vector.bytes.len() {
            assert!(Metainfo::from_torrent(&vector.bytes[..end]).is_err(), "{} {end}", vector.name);
        }
        let mut bytes = vector.bytes.to_vec();
        for at in 0..bytes.len() {
            for bit in [1, 4, 0x80] {
                bytes[at] ^= bit;
                if let Ok(changed) = Metainfo::from_torrent(&bytes) {
                    let layout = changed.layout();
                    (0..layout.files().len())
                        .for_each(|file| assert!(!layout.path(file).has_root()));
                    let same = changed.info_bytes() == metainfo.info_bytes();
                    assert_eq!(changed.hashes() == metainfo.hashes(), same, "{}", vector.name);
                }
                bytes[at] ^= bit;
            }
        }
    }
}
