//! What a .torrent file, or the info dictionary behind a magnet link, says.

mod files;
mod shape;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, ops::Range, sync::Arc};

use sha1::{Digest, Sha1};
use sha2::Sha256;

use crate::{
    BLOCK_LEN, Geometry, GeometryError, Hash, InfoHashes, Layout, Magnet, PIECE_LEN_MAX,
    PieceCheck,
    bencode::{self, BencodeError},
    magnet::ADDRESSES_MAX,
    merkle::Shape,
    names::safe_name,
};
use shape::{Info, PieceLayers, Torrent, VersionOfInfo, VersionOfTorrent};

/// The longest .torrent file or info dictionary that is read, in bytes: enough for 800,000 pieces
/// of v1, or 500,000 of v2. It stays in memory, to be handed to peers that have the magnet link.
pub const TORRENT_LEN_MAX: usize = 16 << 20;
/// Most files of a torrent, padding (BEP 47) included.
pub const FILES_MAX: usize = 100_000;
/// The longest URL of a tracker that is kept, in bytes.
const TRACKER_LEN_MAX: usize = 1024;
/// Most bytes of a torrent, so that sums of a few such lengths cannot overflow: 1 EiB.
const DATA_LEN_MAX: u64 = 1 << 60;

/// Why a torrent cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetainfoError {
    /// Longer than [`TORRENT_LEN_MAX`].
    #[error("the torrent has {0} bytes; at most {TORRENT_LEN_MAX} are read: use longer pieces")]
    TooLong(usize),
    /// Damaged, or something else than a torrent.
    #[error("not a torrent, or not a whole one: {0}; get it again")]
    Bencode(#[from] BencodeError),
    /// A key is missing or has a value of another kind.
    #[error("the torrent is not built as BEP 3 or 52 say: {0}")]
    Shape(String),
    /// `meta version` is unknown.
    #[error("the torrent is of version {0}; 1 and 2 are known: use a newer client")]
    Version(i64),
    /// Neither v1 nor v2 is whole.
    #[error("the torrent names no files")]
    NoFiles,
    /// Pieces as nobody makes them.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// More than [`FILES_MAX`].
    #[error("the torrent has more than {FILES_MAX} files or twice as many folders")]
    TooManyFiles,
    /// A path is too long or too deep.
    #[error("a path of the torrent is longer than systems allow")]
    PathTooLong,
    /// A length is negative, or the sum is beyond any disk.
    #[error("a file of the torrent has no sound length")]
    Length,
    /// The hashes of v1 are not one for each piece.
    #[error("the torrent has hashes for {hashes} pieces, but {pieces} pieces")]
    Pieces {
        /// Bytes of hashes, by 20.
        hashes: u64,
        /// Pieces by the files' lengths.
        pieces: u64,
    },
    /// A symlink (BEP 47) that also has data.
    #[error("a symlink of the torrent has data: it is not known where that should go")]
    Symlink,
    /// A file of v2 has bytes and no root, or a root that is no hash.
    #[error("a file of the torrent has no root of its hash tree")]
    Root,
    /// The hashes of a file's pieces are not those beneath its root.
    #[error("the piece layers of the torrent do not fit its files: get it again")]
    Layers,
    /// The two halves of a hybrid torrent name different files.
    #[error("the v1 and v2 halves of the torrent name different files: one of them lies")]
    Hybrid,
    /// The info dictionary has another hash than the one asked for.
    #[error("this is another torrent than the one asked for")]
    Other,
}

/// A torrent: what it is called, what files and pieces it has and what they hash to.
#[derive(Clone, PartialEq, Eq)]
pub struct Metainfo {
    hashes: InfoHashes,
    info: Box<[u8]>,
    name: Box<str>,
    renamed: usize,
    private: bool,
    trackers: Vec<Vec<String>>,
    layout: Layout,
    geometry: Geometry,
    /// Where in `info` the hashes of v1 are.
    pieces: Option<Range<usize>>,
    /// For each file of more than one piece with a hash tree: the hashes of its pieces, once known.
    /// Files of one content share them.
    layers: Vec<Option<Arc<[Hash]>>>,
    /// Files with a root, sorted by it.
    by_root: Vec<u32>,
}

impl Metainfo {
    /// Reads a .torrent file.
    ///
    /// The piece layers of a v2 or hybrid torrent may be missing; those that are there must fit.
    /// Of what BEP 47 adds to files padding is known; symlinks are left out, as they could lead
    /// anywhere; that a file is hidden or can be run is not kept.
    ///
    /// # Errors
    /// [`MetainfoError`].
    pub fn from_torrent(bytes: &[u8]) -> Result<Self, MetainfoError> {
        checked(bytes)?;
        let torrent: Torrent<'_> = match librqbit_bencode::from_bytes(bytes) {
            Ok(torrent) => torrent,
            Err(error) => {
                let version = librqbit_bencode::from_bytes::<VersionOfTorrent>(bytes);
                return Err(unreadable(
                    error.into_kind(),
                    version.ok().map(|torrent| torrent.info),
                ));
            }
        };
        let mut metainfo = Self::new(torrent.info.raw_bytes, &torrent.info.data)?;
        if let Some(layers) = torrent.piece_layers {
            metainfo.read_layers(&layers)?;
        }
        // BEP 12: the one announce URL counts only where there are no tiers.
        let tiers = torrent.announce_list.map(|tiers| tiers.items).unwrap_or_default();
        let tiers: Vec<Vec<String>> = tiers
            .into_iter()
            .map(|tier| urls(&tier.items))
            .filter(|tier| !tier.is_empty())
            .collect();
        metainfo.trackers = match torrent.announce {
            Some(announce) if tiers.is_empty() => {
                [urls(&[announce])].into_iter().filter(|tier| !tier.is_empty()).collect()
            }
            _ => tiers,
        };
        Ok(metainfo)
    }

    /// Reads the info dictionary of the torrent that `expected` names, as peers send it (BEP 9).
    /// Of a v2 or hybrid one no piece layers are known then: see [`Metainfo::set_layer`].
    ///
    /// [`Metainfo::hashes`] has both hashes of a hybrid torrent, also where `expected` has one.
    ///
    /// # Errors
    /// [`MetainfoError`]: [`MetainfoError::Other`] where the hash is another.
    pub fn from_info(info: &[u8], expected: &InfoHashes) -> Result<Self, MetainfoError> {
        checked(info)?;
        let both =
            InfoHashes::new(Some(Sha1::digest(info).into()), Some(Sha256::digest(info).into()));
        if !both.is_some_and(|hashes| hashes.agrees_with(expected)) {
            return Err(MetainfoError::Other);
        }
        let shape: Info<'_> = match librqbit_bencode::from_bytes(info) {
            Ok(shape) => shape,
            Err(error) => {
                let version = librqbit_bencode::from_bytes::<VersionOfInfo>(info).ok();
                return Err(unreadable(error.into_kind(), version));
            }
        };
        let metainfo = Self::new(info, &shape)?;
        // A hash of v1 does not name a torrent that has only v2, nor the other way round.
        if !metainfo.hashes.agrees_with(expected) {
            return Err(MetainfoError::Other);
        }
        Ok(metainfo)
    }

    fn new(bytes: &[u8], info: &Info<'_>) -> Result<Self, MetainfoError> {
        let has_trees = match info.meta_version {
            None | Some(1) => false,
            Some(2) => true,
            Some(other) => return Err(MetainfoError::Version(other)),
        };
        let piece_len = match u32::try_from(info.piece_len) {
            Ok(len @ 1..=PIECE_LEN_MAX) => len,
            // What does not even fit is told as the nearest number that does.
            _ => {
                let len = info.piece_len.clamp(0, i64::from(u32::MAX)) as u32;
                return Err(GeometryError::PieceLen(len).into());
            }
        };
        if has_trees && (piece_len < BLOCK_LEN || !piece_len.is_power_of_two()) {
            return Err(GeometryError::PieceLen(piece_len).into());
        }
        let has_list = info.pieces.is_some() && (info.files.is_some() || info.length.is_some());
        let read = files::read(info, piece_len, has_list, has_trees)?;
        let pieces = read.layout.end().div_ceil(u64::from(piece_len));
        let mut range = None;
        if let (true, Some(hashes)) = (has_list, info.pieces) {
            let count = hashes.len() as u64;
            if count != pieces * 20 {
                return Err(MetainfoError::Pieces { hashes: count / 20, pieces });
            }
            range = Some(range_within(bytes, hashes));
        }
        let count = u32::try_from(pieces).map_err(|_| GeometryError::TooManyPieces)?;
        let short = short_pieces(&read.layout, has_trees, count);
        let geometry = Geometry::new(piece_len, count, short)?;
        let files = read.layout.files();
        // At most [`FILES_MAX`].
        let mut by_root: Vec<u32> = (0..files.len() as u32).collect();
        by_root.retain(|file| files[*file as usize].root().is_some());
        by_root.sort_by_key(|file| files[*file as usize].root());
        let v1 = has_list.then(|| Sha1::digest(bytes).into());
        let v2 = has_trees.then(|| Sha256::digest(bytes).into());
        Ok(Self {
            hashes: InfoHashes::new(v1, v2).ok_or(MetainfoError::NoFiles)?,
            info: bytes.into(),
            name: safe_name(info.name.unwrap_or_default()).into(),
            renamed: read.renamed,
            private: info.private.is_some_and(|private| private != 0),
            trackers: Vec::new(),
            layers: vec![None; files.len()],
            by_root,
            layout: read.layout,
            geometry,
            pieces: range,
        })
    }

    /// The hashes by which peers find each other.
    pub fn hashes(&self) -> &InfoHashes {
        &self.hashes
    }

    /// What the torrent is called: of one file its name, of several their folder's. Safe to be
    /// created and shown.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many names of files and folders are not as in the torrent: what they were would have
    /// been unsafe on some system, or the name of another ([`safe_name`]).
    pub fn renamed(&self) -> usize {
        self.renamed
    }

    /// Whether peers may be found only by its trackers (BEP 27): not by DHT, PEX or local discovery.
    pub fn is_private(&self) -> bool {
        self.private
    }

    /// URLs of trackers in tiers (BEP 12): as the file has them, at most 64 of 64.
    pub fn trackers(&self) -> &[Vec<String>] {
        &self.trackers
    }

    /// Adds the trackers that came with a link.
    pub fn set_trackers(&mut self, tiers: Vec<Vec<String>>) {
        self.trackers = tiers;
    }

    /// Where files are in the pieces.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// How pieces are cut.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The info dictionary, as its hashes are over.
    pub fn info_bytes(&self) -> &[u8] {
        &self.info
    }

    /// What a piece must hash to. `None` where there is no such piece, or the hashes of its file's
    /// pieces are not known yet.
    ///
    /// A hybrid torrent is judged by its trees alone. That its v1 half is of the same data is its
    /// maker's word: who trusts it has nothing to lose but that peers of v1 find it broken.
    pub fn check(&self, piece: u32) -> Option<PieceCheck> {
        if piece >= self.geometry.pieces() {
            return None;
        }
        if self.hashes.v2().is_none() {
            let hashes = &self.info[self.pieces.clone()?];
            let at = piece as usize * 20;
            return Some(PieceCheck::Sha1(hashes[at..at + 20].try_into().ok()?));
        }
        let (file, shape, number) = self.tree_at(piece)?;
        let (root, levels) = match shape.pieces() {
            1 => (self.layout.files()[file].root()?, shape.height()),
            _ => (*self.layers[file].as_ref()?.get(number as usize)?, shape.piece_height()),
        };
        Some(PieceCheck::Tree { root, levels })
    }

    /// Adds the hashes of all pieces of a file, learned from peers.
    ///
    /// # Errors
    /// [`MetainfoError::Layers`] where they do not lead to the file's root, or the file needs none.
    pub fn set_layer(&mut self, file: usize, layer: Vec<Hash>) -> Result<(), MetainfoError> {
        let of = self.layout.files().get(file).ok_or(MetainfoError::Layers)?;
        let root = of.root().ok_or(MetainfoError::Layers)?;
        let shape = Shape::new(of.len(), self.geometry.piece_len());
        if shape.pieces() < 2 || !shape.fits(&layer, &root) {
            return Err(MetainfoError::Layers);
        }
        self.layers[file] = Some(layer.into());
        Ok(())
    }

    /// The hashes of a file's pieces, if it has more than one and they are known.
    pub fn layer(&self, file: usize) -> Option<&[Hash]> {
        self.layers.get(file)?.as_deref()
    }

    /// The files of which [`Metainfo::set_layer`] is due, before any of their pieces can be judged.
    pub fn missing_layers(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.layers.len()).filter(|file| {
            let of = &self.layout.files()[*file];
            let shape = Shape::new(of.len(), self.geometry.piece_len());
            of.root().is_some() && shape.pieces() > 1 && self.layers[*file].is_none()
        })
    }

    /// A link by which others get the torrent from peers. The first 64 trackers come along, tiers
    /// do not.
    pub fn magnet(&self) -> Magnet {
        Magnet {
            hashes: self.hashes,
            name: Some(self.name.to_string()),
            trackers: self.trackers.iter().flatten().take(ADDRESSES_MAX).cloned().collect(),
            peers: Vec::new(),
        }
    }

    /// The torrent as a file: trackers, info dictionary and the piece layers that are known.
    pub fn to_torrent(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.info.len() + 1024);
        out.push(b'd');
        if let Some(first) = self.trackers.iter().flatten().next() {
            bencode::push_bytes(&mut out, b"announce");
            bencode::push_bytes(&mut out, first.as_bytes());
        }
        if self.trackers.iter().flatten().nth(1).is_some() {
            bencode::push_bytes(&mut out, b"announce-list");
            out.push(b'l');
            for tier in &self.trackers {
                out.push(b'l');
                tier.iter().for_each(|url| bencode::push_bytes(&mut out, url.as_bytes()));
                out.push(b'e');
            }
            out.push(b'e');
        }
        bencode::push_bytes(&mut out, b"info");
        out.extend_from_slice(&self.info);
        if self.hashes.v2().is_some() {
            bencode::push_bytes(&mut out, b"piece layers");
            out.push(b'd');
            let files = self.layout.files().iter().zip(&self.layers);
            let layers = files.filter_map(|(file, layer)| Some((file.root()?, layer.as_ref()?)));
            for (root, layer) in layers.collect::<BTreeMap<_, _>>() {
                bencode::push_bytes(&mut out, &root);
                bencode::push_bytes(&mut out, layer.as_flattened());
            }
            out.push(b'e');
        }
        out.push(b'e');
        out
    }

    /// The file with this root: one of them, if several have the same content.
    pub(crate) fn file_of_root(&self, root: &Hash) -> Option<usize> {
        let of = |file: &u32| self.layout.files()[*file as usize].root();
        let at = self.by_root.binary_search_by_key(&Some(*root), of).ok()?;
        Some(self.by_root[at] as usize)
    }

    /// The file that holds a piece, the shape of its tree, and which of its pieces it is.
    pub(crate) fn tree_at(&self, piece: u32) -> Option<(usize, Shape, u32)> {
        let file = self.layout.file_at(piece)?;
        let shape = Shape::new(self.layout.files()[file].len(), self.geometry.piece_len());
        Some((file, shape, piece - self.layout.pieces(file).start))
    }

    fn read_layers(&mut self, layers: &PieceLayers<'_>) -> Result<(), MetainfoError> {
        // Files of one content share a layer: it is checked and kept once.
        let mut known = BTreeMap::<Hash, Arc<[Hash]>>::new();
        for (file, kept) in self.layout.files().iter().zip(&mut self.layers) {
            let shape = Shape::new(file.len(), self.geometry.piece_len());
            let Some(root) = file.root().filter(|_| shape.pieces() > 1) else { continue };
            let Some(bytes) = layers.beneath(&root) else { continue };
            let layer = match known.get(&root) {
                Some(layer) => layer.clone(),
                None => {
                    let (hashes, []) = bytes.as_chunks() else { return Err(MetainfoError::Layers) };
                    known.entry(root).or_insert(hashes.into()).clone()
                }
            };
            // Of files with one root only those of one length can be honest.
            if layer.len() as u64 != shape.pieces() {
                return Err(MetainfoError::Layers);
            }
            *kept = Some(layer);
        }
        let fits = |(root, layer): (&Hash, &Arc<[Hash]>)| {
            let file = self.file_of_root(root).map(|file| &self.layout.files()[file]);
            file.is_some_and(|f| Shape::new(f.len(), self.geometry.piece_len()).fits(layer, root))
        };
        if known.iter().all(fits) { Ok(()) } else { Err(MetainfoError::Layers) }
    }
}

/// In short: hashes, name, and how many files and pieces.
impl fmt::Debug for Metainfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metainfo")
            .field("hashes", &format_args!("{}", self.hashes))
            .field("name", &self.name)
            .field("files", &self.layout.files().len())
            .field("pieces", &self.geometry.pieces())
            .finish_non_exhaustive()
    }
}

/// Refuses what is too long, or not bencode as it is read here.
fn checked(bytes: &[u8]) -> Result<(), MetainfoError> {
    if bytes.len() > TORRENT_LEN_MAX {
        return Err(MetainfoError::TooLong(bytes.len()));
    }
    match bencode::measure(bytes, i64::MIN..=i64::MAX)? {
        len if len == bytes.len() => Ok(()),
        len => Err(BencodeError::Malformed(len).into()),
    }
}

/// Why types could not be read: of a newer version first, whose keys may be any.
fn unreadable(
    error: librqbit_bencode::DeserializeError,
    info: Option<VersionOfInfo>,
) -> MetainfoError {
    match info.and_then(|info| info.meta_version) {
        Some(version) if !(1..=2).contains(&version) => MetainfoError::Version(version),
        _ => MetainfoError::Shape(error.to_string()),
    }
}

/// URLs that are text of a sound length.
fn urls(of: &[&[u8]]) -> Vec<String> {
    let texts = of.iter().filter_map(|url| std::str::from_utf8(url).ok());
    texts.filter(|url| is_url(url)).map(Into::into).collect()
}

/// Whether a text may be the URL of a tracker: nothing more is said of it.
pub(crate) fn is_url(text: &str) -> bool {
    (1..=TRACKER_LEN_MAX).contains(&text.len()) && !text.contains(char::is_control)
}

/// Where `part` lies in `whole`, of which it is a part.
fn range_within(whole: &[u8], part: &[u8]) -> Range<usize> {
    let begin = part.as_ptr() as usize - whole.as_ptr() as usize;
    begin..begin + part.len()
}

/// The pieces that hold less than the others: the last one, and with trees those at which files end.
fn short_pieces(layout: &Layout, has_trees: bool, pieces: u32) -> BTreeMap<u32, u32> {
    let piece_len = u64::from(layout.piece_len);
    // Less than a piece, whose length is a `u32`.
    let rest = |len: u64| (len % piece_len) as u32;
    if has_trees {
        let ends = (0..layout.files().len()).map(|file| (file, rest(layout.files()[file].len())));
        let short = ends.filter(|(_, rest)| *rest > 0);
        return short.map(|(file, rest)| (layout.pieces(file).end - 1, rest)).collect();
    }
    match rest(layout.end()) {
        0 => BTreeMap::new(),
        rest => [(pieces - 1, rest)].into(),
    }
}
