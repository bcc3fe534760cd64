//! Torrents: what a file, a peer or a link says of one.

use std::{collections::BTreeSet, path::Component};

use sparewire_content::{
    Builder, Format, Magnet, Metainfo, NAME_LEN_MAX, PATH_LEN_MAX, PATH_NAMES_MAX, tracked_peers,
};

use super::{assert_tame, within};

/// What comes on top of a few times the input's length.
const ALLOCATION_MAX: usize = 32 << 10;
/// Pieces of a torrent that are looked at from either end: it may have millions.
const PIECES_MAX: u32 = 64;

/// A .torrent file, or an info dictionary alone.
pub fn metainfo(data: &[u8]) {
    read_torrent(data);
    read_torrent(&[b"d4:info", data, b"e"].concat());
}

fn read_torrent(data: &[u8]) {
    match within(ALLOCATION_MAX + 64 * data.len(), || Metainfo::from_torrent(data)) {
        Ok(metainfo) => {
            assert_paths(&metainfo);
            assert_pieces(&metainfo);
            assert_eq!(Metainfo::from_torrent(&metainfo.to_torrent()).as_ref(), Ok(&metainfo));
            assert_link(&metainfo.magnet());
            let mut alone = Metainfo::from_info(metainfo.info_bytes(), metainfo.hashes())
                .expect("its own info dictionary");
            alone.set_trackers(metainfo.trackers().to_vec());
            for file in alone.missing_layers().collect::<Vec<_>>() {
                if let Some(layer) = metainfo.layer(file) {
                    alone.set_layer(file, layer.to_vec()).expect("it was checked before");
                }
            }
            assert_eq!(alone, metainfo);
        }
        Err(error) => assert_tame(&error, 512),
    }
}

/// Every file is in the folder, and no two are one.
fn assert_paths(metainfo: &Metainfo) {
    let layout = metainfo.layout();
    let mut seen = BTreeSet::new();
    let mut folders = BTreeSet::new();
    for file in 0..layout.files().len() {
        let path = layout.path(file);
        let text = path.to_str().expect("names are text").to_lowercase();
        assert_tame(&path.display(), PATH_LEN_MAX);
        assert!((1..=PATH_NAMES_MAX).contains(&path.components().count()));
        for part in path.components() {
            let Component::Normal(name) = part else { panic!("{part:?} in {path:?}") };
            assert!((1..NAME_LEN_MAX + 16).contains(&name.len()), "{name:?}");
        }
        let above = text.rmatch_indices('/').map(|(at, _)| text[..at].to_owned());
        folders.extend(above);
        assert!(seen.insert(text), "{path:?} is there twice");
    }
    assert!(seen.is_disjoint(&folders), "a file is a folder");
    assert!(!metainfo.name().is_empty());
}

/// Pieces, blocks, extents and files are of one length, and what can be judged is.
fn assert_pieces(metainfo: &Metainfo) {
    let (layout, geometry) = (metainfo.layout(), metainfo.geometry());
    let pieces = geometry.pieces();
    let of_files: u64 = layout.files().iter().map(|file| file.len()).sum();
    assert!(geometry.data_len() >= of_files && layout.end() >= of_files);
    if metainfo.hashes().v2().is_some() {
        assert_eq!(geometry.data_len(), of_files);
    }
    let unknown: BTreeSet<usize> = metainfo.missing_layers().collect();
    for piece in (0..pieces.min(PIECES_MAX)).chain(pieces.saturating_sub(PIECES_MAX)..pieces) {
        let len = geometry.len_of(piece);
        assert!(len > 0);
        let mut sum = 0;
        for extent in layout.extents(piece, 0, len) {
            assert!(extent.len > 0);
            sum += extent.len;
            if let Some(file) = extent.file {
                let file_len = layout.files()[file].len();
                assert!(extent.offset + u64::from(extent.len) <= file_len);
                assert!(layout.pieces(file).contains(&piece));
            }
        }
        assert_eq!(sum, len);
        let file = layout.file_at(piece);
        let known = file.is_none_or(|file| !unknown.contains(&file));
        assert_eq!(metainfo.check(piece).is_some(), known);
        for request in metainfo.ask_leaves(piece) {
            assert_eq!(metainfo.answer(&request, |_| None), None);
            assert_eq!(metainfo.proven(&request, &[]), None);
        }
    }
    assert_eq!(metainfo.check(pieces), None);
}

/// A magnet link.
pub fn magnet(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match within(ALLOCATION_MAX + 16 * text.len(), || text.parse::<Magnet>()) {
        Ok(magnet) => assert_link(&magnet),
        Err(error) => assert_tame(&error, 512),
    }
}

/// A link can be shown, and is read back as it was.
fn assert_link(magnet: &Magnet) {
    let link = magnet.to_string();
    assert!(link.bytes().all(|byte| byte.is_ascii_graphic()), "{link}");
    let back: Magnet = link.parse().expect("what is shown can be read");
    assert_eq!(back.hashes, magnet.hashes);
    assert_eq!(back.name, magnet.name);
    // A torrent may have more than a link takes.
    assert!(magnet.trackers.starts_with(&back.trackers) && back.trackers.len() <= 64);
    assert_eq!(back.peers, magnet.peers);
    assert_tame(&magnet.name.as_deref().unwrap_or_default(), NAME_LEN_MAX);
    magnet.peers.iter().for_each(|peer| assert_tame(peer, 300));
}

/// What an HTTP tracker answers.
pub fn tracker_answer(data: &[u8]) {
    match within(ALLOCATION_MAX + 16 * data.len(), || tracked_peers(data)) {
        Ok(peers) => {
            let named = peers.len();
            assert!(named <= 1_000 && 6 * named <= data.len(), "{named} of {} bytes", data.len());
        }
        Err(error) => assert_tame(&error, 1_000),
    }
}

/// Torrents of each format, and their info dictionaries.
pub(super) fn torrents() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for format in [Format::V1, Format::V2, Format::Hybrid] {
        let path = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let files = vec![
            (path(&["a"]), 40_000),
            (path(&["b", "c"]), 0),
            (path(&["b", "d", "e"]), 20_000),
            (path(&["f"]), 1),
        ];
        let folder = Builder::folder("folder", files).expect("sound names");
        let alone = Builder::file("file.bin", 50_000).expect("a sound name").private();
        for builder in [folder, alone] {
            let tiers =
                vec![vec!["http://t.example/announce".into()], vec!["udp://u.example:80".into()]];
            let builder = builder.format(format).trackers(tiers);
            let mut builder = builder.piece_len(16 << 10).expect("a power of two");
            while let Some((file, left)) = builder.wanted() {
                builder.update(&vec![file as u8; left as usize]).expect("as many as are wanted");
            }
            let torrent = builder.finish().expect("a torrent");
            seeds.push(torrent.to_torrent());
            seeds.push(torrent.info_bytes().to_vec());
        }
    }
    // BEP 47, and names as nobody should give them.
    seeds.push(
        b"d5:filesld6:lengthi5e4:pathl2:..3:NULeed4:attr1:p6:lengthi11e4:pathl4:.pad2:11eed4:attr\
          1:l4:pathl4:linkeed6:lengthi5e4:pathl2:..3:nul1:xeee4:name3:a/b12:piece lengthi16e6:pieces\
          40:aaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbbe"
            .to_vec(),
    );
    seeds
}

/// Links of each kind.
pub(super) fn links() -> Vec<Vec<u8>> {
    let v1 = "0123456789abcdef0123456789abcdef01234567";
    let v2 = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    [
        format!(
            "magnet:?xt=urn:btih:{v1}&xt=urn:btmh:1220{v2}&dn=A%20%26+b&tr=http%3A%2F%2Ft.example"
        ),
        format!(
            "magnet:?xt.1=urn:btmh:1220{v2}&x.pe=192.0.2.1%3A6881&x.pe=[2001:db8::1]:1&x.pe=h:65535"
        ),
        "magnet:?dn=..&xt=urn:btih:AERUKZ4JVPG66AJDIVTYTK6N54ASGRLH&so=0-5".to_owned(),
    ]
    .map(String::into_bytes)
    .into()
}

/// Answers of each kind.
pub(super) fn answers() -> Vec<Vec<u8>> {
    [
        &b"d8:completei1e10:incompletei2e8:intervali1800e5:peers12:\x01\x02\x03\x04\x1a\xe1\x05\x06\x07\x08\0\x01e"[..],
        b"d8:intervali1e5:peers0:6:peers618:\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x1a\xe1e",
        b"d5:peersld2:ip7:1.2.3.47:peer id1:x4:porti80eed2:ip11:2001:db8::24:porti9eeee",
        b"d14:failure reason5:n\x1bo\xff!e",
        b"d8:intervali99999999999999999999e5:peers0:e",
    ]
    .map(<[u8]>::to_vec)
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of v1 in its folder, as bencode.
    fn push_file(out: &mut Vec<u8>, at: usize, len: usize) {
        let (folder, name) =
            (format!("folder {}", at / 100), format!("a file with a name {at:05}.bin"));
        out.extend(format!("d6:lengthi{len}e4:pathl{}:{folder}", folder.len()).bytes());
        out.extend(format!("{}:{name}ee", name.len()).bytes());
    }

    #[test]
    fn a_hundred_thousand_pieces_in_ten_thousand_files_take_little_memory() {
        let mut torrent = b"d4:infod5:filesl".to_vec();
        (0..10_000).for_each(|at| push_file(&mut torrent, at, 163_840));
        torrent.extend(b"e4:name1:t12:piece lengthi16384e6:pieces2000000:");
        torrent.resize(torrent.len() + 2_000_000, 7);
        torrent.extend(b"ee");
        let metainfo = within(16 << 20, || Metainfo::from_torrent(&torrent)).expect("a torrent");
        assert_eq!(metainfo.geometry().pieces(), 100_000);
    }
}
