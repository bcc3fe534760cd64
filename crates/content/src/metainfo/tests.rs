//! Torrents as nobody should make them.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::{
    Extent, GeometryError, merkle,
    names::{PATH_LEN_MAX, PATH_NAMES_MAX},
};

/// Bencode to be written by hand.
#[derive(Clone)]
enum Value {
    Number(i64),
    Bytes(Vec<u8>),
    List(Vec<Value>),
    /// As given, sorted or not.
    Dict(Vec<(Vec<u8>, Value)>),
}

impl Value {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::Number(number) => out.extend(format!("i{number}e").bytes()),
            Value::Bytes(bytes) => bencode::push_bytes(out, bytes),
            Value::List(items) => {
                out.push(b'l');
                items.iter().for_each(|item| item.write(out));
                out.push(b'e');
            }
            Value::Dict(entries) => {
                out.push(b'd');
                for (key, value) in entries {
                    bencode::push_bytes(out, key);
                    value.write(out);
                }
                out.push(b'e');
            }
        }
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Value::Number(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Bytes(text.into())
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Value::Bytes(bytes)
    }
}

fn dict<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Dict(entries.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

fn list(items: impl IntoIterator<Item = Value>) -> Value {
    Value::List(items.into_iter().collect())
}

/// A file of v1.
fn listed(path: &[&str], len: i64) -> Value {
    dict([("length", len.into()), ("path", list(path.iter().map(|name| (*name).into())))])
}

fn with_attr(path: &[&str], len: i64, attr: &str) -> Value {
    let Value::Dict(mut entries) = listed(path, len) else { unreachable!() };
    entries.insert(0, ("attr".into(), attr.into()));
    Value::Dict(entries)
}

/// An info dictionary of v1 with hashes for as many pieces as are given.
fn v1(name: &str, files: Vec<Value>, piece_len: i64, pieces: usize) -> Value {
    dict([
        ("files", list(files)),
        ("name", name.into()),
        ("piece length", piece_len.into()),
        ("pieces", vec![7; 20 * pieces].into()),
    ])
}

/// A file of v2.
fn leaf_of(len: i64, root: &[u8]) -> Value {
    dict([("", dict([("length", len.into()), ("pieces root", root.to_vec().into())]))])
}

fn v2(name: &str, tree: Value, piece_len: i64) -> Value {
    dict([
        ("file tree", tree),
        ("meta version", 2.into()),
        ("name", name.into()),
        ("piece length", piece_len.into()),
    ])
}

fn hybrid(files: Vec<Value>, tree: Value, pieces: usize) -> Value {
    dict([
        ("file tree", tree),
        ("files", list(files)),
        ("meta version", 2.into()),
        ("name", "x".into()),
        ("piece length", 16_384.into()),
        ("pieces", vec![7; 20 * pieces].into()),
    ])
}

fn bytes(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    value.write(&mut out);
    out
}

fn read(info: Value) -> Result<Metainfo, MetainfoError> {
    Metainfo::from_torrent(&bytes(&dict([("info", info)])))
}

fn paths(metainfo: &Metainfo) -> Vec<String> {
    let path = |file| metainfo.layout().path(file).to_str().unwrap().replace('\\', "/");
    (0..metainfo.layout().files().len()).map(path).collect()
}

fn is_shape<T>(result: Result<T, MetainfoError>) -> bool {
    matches!(result, Err(MetainfoError::Shape(_)))
}

#[test]
fn paths_that_would_leave_the_folder_stay_in_it() {
    let files: [&[&str]; 9] = [
        &["..", "..", "etc", "passwd"],
        &["/etc/passwd"],
        &["C:\\Windows\\x"],
        &["a", "", "b"],
        &["."],
        &["NUL"],
        &["a/../../b"],
        &["dup"],
        &["dup"],
    ];
    let files: Vec<_> = files.iter().map(|path| listed(path, 1)).collect();
    let metainfo = read(v1("../..", files, 16_384, 1)).unwrap();
    assert_eq!(metainfo.name(), "..___");
    assert_eq!(
        paths(&metainfo),
        [
            "..___/__/__/etc/passwd",
            "..___/_etc_passwd",
            "..___/C__Windows_x",
            "..___/a/_/b",
            "..___/_",
            "..___/_NUL",
            "..___/a_.._.._b",
            "..___/dup",
            "..___/dup (2)",
        ]
    );
    assert_eq!(metainfo.renamed(), 10);
    let alone = dict([
        ("length", 1.into()),
        ("name", "..".into()),
        ("piece length", 16_384.into()),
        ("pieces", vec![7; 20].into()),
    ]);
    assert_eq!(paths(&read(alone).unwrap()), ["__"]);
    let tree = dict([("..", dict([("..", dict([("x", leaf_of(1, &[1; 32]))]))]))]);
    assert_eq!(paths(&read(v2("/", tree, 16_384)).unwrap()), ["_/__/__/x"]);
}

#[test]
fn a_file_in_the_place_of_a_folder_gives_way() {
    let files = vec![listed(&["x"], 1), listed(&["x", "y"], 1), listed(&["X", "Y"], 1)];
    let metainfo = read(v1("t", files, 16_384, 1)).unwrap();
    assert_eq!(paths(&metainfo), ["t/x", "t/x (2)/y", "t/x (2)/Y (2)"]);
}

#[test]
fn lengths_and_piece_counts_must_be_sound() {
    let one = |len: i64, piece_len: i64, pieces| {
        read(v1("t", vec![listed(&["a"], len)], piece_len, pieces))
    };
    assert_eq!(one(-1, 16_384, 0), Err(MetainfoError::Length));
    assert_eq!(one(i64::MAX, 16_384, 0), Err(MetainfoError::Length));
    assert!(one(20, 10, 2).is_ok());
    assert_eq!(one(21, 10, 2), Err(MetainfoError::Pieces { hashes: 2, pieces: 3 }));
    assert_eq!(one(20, 10, 3), Err(MetainfoError::Pieces { hashes: 3, pieces: 2 }));
    for piece_len in [0, -1, i64::MIN, (64 << 20) + 1, i64::MAX] {
        let refused = one(1, piece_len, 1);
        let expected = matches!(refused, Err(MetainfoError::Geometry(GeometryError::PieceLen(_))));
        assert!(expected, "{piece_len} {refused:?}");
    }
    let many = vec![listed(&["a"], 1 << 59); 3];
    assert_eq!(read(v1("t", many, 16_384, 0)), Err(MetainfoError::Length));
    let odd = dict([
        ("length", 1.into()),
        ("piece length", 16_384.into()),
        ("pieces", vec![7; 21].into()),
    ]);
    assert_eq!(read(odd), Err(MetainfoError::Pieces { hashes: 1, pieces: 1 }));
    for piece_len in [8_192, 16_385, 49_152, 1] {
        let refused = read(v2("t", dict([("a", leaf_of(1, &[1; 32]))]), piece_len));
        let expected = matches!(refused, Err(MetainfoError::Geometry(GeometryError::PieceLen(_))));
        assert!(expected, "{piece_len}");
    }
    let huge = v2("t", dict([("a", leaf_of(1 << 58, &[1; 32]))]), 16_384);
    assert_eq!(read(huge), Err(GeometryError::TooManyPieces.into()));
    let huge = v2("t", dict([("a", leaf_of(1 << 40, &[1; 32]))]), 16_384);
    assert_eq!(read(huge), Err(GeometryError::TooManyPieces.into()));
}

#[test]
fn a_torrent_without_bytes_has_no_pieces() {
    let empty = read(v1("t", vec![listed(&["a"], 0), listed(&["b"], 0)], 16_384, 0)).unwrap();
    assert_eq!(paths(&empty), ["t/a", "t/b"]);
    assert_eq!((empty.geometry().pieces(), empty.check(0)), (0, None));
    let file = dict([("", dict([("length", 0.into())]))]);
    let empty = read(v2("t", dict([("a", file.clone()), ("b", file)]), 16_384)).unwrap();
    assert_eq!((empty.geometry().pieces(), empty.check(0)), (0, None));
    assert_eq!(read(v1("t", vec![], 16_384, 0)), Err(MetainfoError::NoFiles));
    assert_eq!(read(v2("t", dict([]), 16_384)), Err(MetainfoError::NoFiles));
}

#[test]
fn what_is_of_a_newer_version_is_said_to_be() {
    let tree = dict([("a", leaf_of(1, &[1; 32]))]);
    let newer =
        dict([("file tree", tree), ("meta version", 3.into()), ("piece length", 16_384.into())]);
    assert_eq!(read(newer), Err(MetainfoError::Version(3)));
    let unlike = dict([("file tree", "elsewhere".into()), ("meta version", 9.into())]);
    assert_eq!(read(unlike.clone()), Err(MetainfoError::Version(9)));
    let expected = InfoHashes::new(Some(Sha1::digest(bytes(&unlike)).into()), None).unwrap();
    assert_eq!(Metainfo::from_info(&bytes(&unlike), &expected), Err(MetainfoError::Version(9)));
}

#[test]
fn what_names_no_files_is_refused() {
    for info in [
        dict([("piece length", 16_384.into())]),
        dict([("length", 1.into()), ("piece length", 16_384.into())]),
        dict([("piece length", 16_384.into()), ("pieces", vec![7; 20].into())]),
        dict([("meta version", 2.into()), ("piece length", 16_384.into())]),
    ] {
        assert_eq!(read(info), Err(MetainfoError::NoFiles));
    }
    assert!(is_shape(read(dict([]))));
    assert!(is_shape(read(list([]))));
    assert!(is_shape(Metainfo::from_torrent(b"de")));
    assert!(is_shape(Metainfo::from_torrent(b"i5e")));
    assert!(is_shape(read(v1("t", vec![listed(&[], 1)], 16_384, 1))));
    assert!(is_shape(read(v1("t", vec![5.into()], 16_384, 1))));
    let long = vec![b'0'; TORRENT_LEN_MAX + 1];
    assert_eq!(Metainfo::from_torrent(&long), Err(MetainfoError::TooLong(long.len())));
    let numbers = b"d4:infod12:piece lengthi99999999999999999999eee";
    assert!(matches!(Metainfo::from_torrent(numbers), Err(MetainfoError::Bencode(_))));
}

#[test]
fn the_file_tree_is_sorted_and_a_file_has_no_siblings() {
    let file = || leaf_of(1, &[1; 32]);
    let length = || dict([("length", 1.into()), ("pieces root", vec![1; 32].into())]);
    for tree in [
        dict([("b", file()), ("a", file())]),
        dict([("a", file()), ("a", file())]),
        dict([("", length())]),
        dict([("a", dict([("", length()), ("b", file())]))]),
        dict([("a", dict([("", 5.into())]))]),
        dict([("a", list([]))]),
    ] {
        assert!(is_shape(read(v2("t", tree, 16_384))));
    }
    let folder_alone = dict([("a", dict([("b", dict([])), ("c", file())]))]);
    assert_eq!(paths(&read(v2("t", folder_alone, 16_384)).unwrap()), ["t/a/c"]);
}

#[test]
fn files_with_bytes_need_a_root_and_layers_must_lead_to_it() {
    for properties in [
        dict([("length", 1.into())]),
        dict([("length", 1.into()), ("pieces root", vec![1; 31].into())]),
    ] {
        let tree = dict([("a", dict([("", properties)]))]);
        assert_eq!(read(v2("t", tree, 16_384)), Err(MetainfoError::Root));
    }
    let layer = [[1; 32], [2; 32], [3; 32]];
    let root = merkle::root(&layer, 0, 2).unwrap();
    let info =
        |len| v2("t", dict([("a", leaf_of(len, &root)), ("b", leaf_of(40_000, &root))]), 16_384);
    let torrent = |info: Value, layer: Vec<u8>| {
        let layers = Value::Dict(vec![(vec![9], "".into()), (root.to_vec(), layer.into())]);
        Metainfo::from_torrent(&bytes(&dict([("info", info), ("piece layers", layers)])))
    };
    let good = torrent(info(40_000), layer.concat()).unwrap();
    assert_eq!((good.layer(0), good.layer(1)), (Some(&layer[..]), Some(&layer[..])));
    assert!(Arc::ptr_eq(good.layers[0].as_ref().unwrap(), good.layers[1].as_ref().unwrap()));
    let mut wrong = layer.concat();
    wrong[5] ^= 1;
    for wrong in [wrong, layer[..2].concat(), layer.concat()[1..].to_vec(), vec![]] {
        assert_eq!(torrent(info(40_000), wrong), Err(MetainfoError::Layers));
    }
    // One root, two lengths: at least one of them is a lie.
    assert_eq!(torrent(info(20_000), layer.concat()), Err(MetainfoError::Layers));

    let mut without = read(info(40_000)).unwrap();
    assert_eq!(without.missing_layers().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(without.check(0), None);
    assert_eq!(without.set_layer(0, layer[..2].to_vec()), Err(MetainfoError::Layers));
    assert_eq!(without.set_layer(2, layer.to_vec()), Err(MetainfoError::Layers));
    without.set_layer(0, layer.to_vec()).unwrap();
    assert_eq!(without.check(2), Some(PieceCheck::Tree { root: [3; 32], levels: 0 }));
    assert_eq!(without.check(3), None);
}

#[test]
fn both_halves_of_a_hybrid_must_name_the_same_files() {
    let tree = || dict([("a", leaf_of(20_000, &[1; 32])), ("b", leaf_of(5, &[2; 32]))]);
    let (a, b) = (listed(&["a"], 20_000), listed(&["b"], 5));
    let pad = with_attr(&[".pad", "12768"], 12_768, "p");
    let good = read(hybrid(vec![a.clone(), pad.clone(), b.clone()], tree(), 3)).unwrap();
    assert_eq!(paths(&good), ["x/a", "x/b"]);
    assert_eq!((good.geometry().len_of(1), good.geometry().len_of(2)), (3_616, 5));
    let extents: Vec<_> = good.layout().extents(1, 3_000, 16_384).collect();
    assert_eq!(
        extents,
        [
            Extent { file: Some(0), offset: 19_384, len: 616 },
            Extent { file: None, offset: 0, len: 12_768 },
            Extent { file: Some(1), offset: 0, len: 5 },
        ]
    );
    let tail = |len| with_attr(&[".pad", "tail"], len, "p");
    assert!(read(hybrid(vec![a.clone(), pad.clone(), b.clone(), tail(16_379)], tree(), 3)).is_ok());
    for (files, pieces) in [
        (vec![a.clone(), b.clone()], 2),
        (vec![b.clone(), pad.clone(), a.clone()], 3),
        (vec![a.clone(), pad.clone(), listed(&["c"], 5)], 3),
        (vec![a.clone(), pad.clone(), listed(&["b"], 6)], 3),
        (vec![a.clone(), pad.clone(), listed(&["b", "b"], 5)], 3),
        (vec![a.clone(), pad.clone()], 2),
        (vec![a.clone(), pad.clone(), b.clone(), listed(&["c"], 0)], 3),
        // More pieces than trees.
        (vec![a, pad, b, tail(16_380)], 4),
    ] {
        assert_eq!(read(hybrid(files, tree(), pieces)), Err(MetainfoError::Hybrid));
    }
    let alone = |name: &str, len: i64| {
        read(dict([
            ("file tree", dict([("a", leaf_of(5, &[1; 32]))])),
            ("length", len.into()),
            ("meta version", 2.into()),
            ("name", name.into()),
            ("piece length", 16_384.into()),
            ("pieces", vec![7; 20].into()),
        ]))
    };
    assert_eq!(paths(&alone("a", 5).unwrap()), ["a"]);
    assert_eq!(alone("b", 5), Err(MetainfoError::Hybrid));
    assert_eq!(alone("a", 6), Err(MetainfoError::Hybrid));
}

#[test]
fn symlinks_are_left_out_and_padding_is_no_file() {
    let files = vec![
        listed(&["a"], 10),
        with_attr(&["link"], 0, "lx"),
        with_attr(&["p"], 22, "p"),
        with_attr(&["run"], 1, "hx"),
    ];
    let metainfo = read(v1("t", files, 16, 3)).unwrap();
    assert_eq!(paths(&metainfo), ["t/a", "t/run"]);
    assert_eq!(metainfo.layout().pieces(1), 2..3);
    // Without trees nobody knows which bytes of a piece are padding: all are asked for.
    assert_eq!(metainfo.geometry().data_len(), 33);
    let refused = read(v1("t", vec![with_attr(&["link"], 5, "l")], 16, 1));
    assert_eq!(refused, Err(MetainfoError::Symlink));
}

#[test]
fn numbers_of_files_and_depths_are_bounded() {
    let files = |count| vec![listed(&["a"], 0); count];
    assert_eq!(read(v1("t", files(FILES_MAX), 16, 0)).unwrap().layout().files().len(), FILES_MAX);
    assert_eq!(read(v1("t", files(FILES_MAX + 1), 16, 0)), Err(MetainfoError::TooManyFiles));
    let deep = |count| read(v1("t", vec![listed(&vec!["d"; count], 0)], 16, 0));
    assert!(deep(PATH_NAMES_MAX - 1).is_ok());
    assert_eq!(deep(PATH_NAMES_MAX), Err(MetainfoError::PathTooLong));
    assert!(is_shape(deep(PATH_NAMES_MAX + 1)));
    let name = "n".repeat(200);
    let long = vec![&*name; PATH_LEN_MAX / 200 + 1];
    assert_eq!(read(v1("t", vec![listed(&long, 0)], 16, 0)), Err(MetainfoError::PathTooLong));
    let mut tree = leaf_of(1, &[1; 32]);
    for _ in 0..PATH_NAMES_MAX - 1 {
        tree = dict([("d", tree)]);
    }
    assert!(read(v2("t", tree.clone(), 16_384)).is_ok());
    assert_eq!(read(v2("t", dict([("d", tree.clone())]), 16_384)), Err(MetainfoError::PathTooLong));
    assert!(is_shape(read(v2("t", dict([("d", dict([("d", tree)]))]), 16_384))));
}

#[test]
fn a_hundred_thousand_pieces_in_ten_thousand_files_are_found() {
    let len = 163_841;
    let name = |at: i64| format!("file {at:05}");
    let file = |at| listed(&["folder", &name(at)], len);
    let pieces = 100_001;
    let metainfo = read(v1("t", (0..10_000).map(file).collect(), 16_384, pieces)).unwrap();
    assert_eq!(metainfo.geometry().pieces(), 100_001);
    assert_eq!(paths(&metainfo)[9_999], "t/folder/file 09999");
    let (mut at, mut data) = (0, 0);
    for piece in 0..metainfo.geometry().pieces() {
        for extent in metainfo.layout().extents(piece, 0, 16_384) {
            assert!(extent.file == Some(at) || extent.file == Some(at + 1));
            at = extent.file.unwrap();
            data += u64::from(extent.len);
        }
    }
    assert_eq!(data, metainfo.geometry().data_len());

    let layer =
        |at: i64| (0..11).map(|n| merkle::leaf(&(at * 11 + n).to_be_bytes())).collect::<Vec<_>>();
    let layers: Vec<_> = (0..10_000).map(layer).collect();
    let root = |layer: &Vec<Hash>| merkle::root(layer, 0, 4).unwrap();
    let file = |(at, layer): (i64, &Vec<Hash>)| (name(at).into_bytes(), leaf_of(len, &root(layer)));
    let tree = Value::Dict((0..).zip(&layers).map(file).collect());
    let by_root = |layer: &Vec<Hash>| (root(layer).to_vec(), layer.concat().into());
    let by_root = Value::Dict(layers.iter().map(by_root).collect());
    let torrent = dict([("info", v2("t", tree, 16_384)), ("piece layers", by_root)]);
    let metainfo = Metainfo::from_torrent(&bytes(&torrent)).unwrap();
    assert_eq!(metainfo.geometry().pieces(), 110_000);
    for (piece, hash) in (0..).zip(layers.iter().flatten()) {
        assert_eq!(metainfo.check(piece), Some(PieceCheck::Tree { root: *hash, levels: 0 }));
    }
}

#[test]
fn trackers_come_in_tiers_and_garbage_is_left_out() {
    let of = |entries: Vec<(&str, Value)>| {
        let info = ("info", v1("t", vec![listed(&["a"], 1)], 16, 1));
        let all = entries.into_iter().chain([info]).map(|(key, value)| (key.into(), value));
        Metainfo::from_torrent(&bytes(&Value::Dict(all.collect()))).unwrap().trackers().to_vec()
    };
    assert_eq!(of(vec![("announce", "http://a".into())]), [["http://a"]]);
    let tiers = list([
        list(["http://b".into(), "udp://c".into()]),
        list(["".into(), vec![0xff].into(), "a\nb".into(), "x".repeat(2000).as_str().into()]),
        list([]),
        list(["http://d".into()]),
    ]);
    let both = vec![("announce", "http://a".into()), ("announce-list", tiers)];
    assert_eq!(of(both), [vec!["http://b", "udp://c"], vec!["http://d"]]);
    let none = vec![("announce", "http://a".into()), ("announce-list", list([list([])]))];
    assert_eq!(of(none), [["http://a"]]);
    assert!(of(vec![("announce", "".into())]).is_empty());
    let many = list((0..1000).map(|_| list((0..70).map(|_| "http://x".into()))));
    let many = of(vec![("announce-list", many)]);
    assert_eq!((many.len(), many[0].len()), (64, 64));

    // However many and long they are, we can read the link that we give out.
    let mut metainfo = read(v1("t", vec![listed(&["a"], 1)], 16, 1)).unwrap();
    metainfo.set_trackers(vec![vec!["%".repeat(TRACKER_LEN_MAX); 70]]);
    let link: Magnet = metainfo.magnet().to_string().parse().unwrap();
    assert_eq!((link.trackers.len(), &link.hashes), (64, metainfo.hashes()));
}
