//! Making a torrent out of files, as their bytes are read.

use std::collections::BTreeMap;

use sha1::{Digest, Sha1};
use sha2::Sha256;

use crate::{
    BLOCK_LEN, Hash, Metainfo, MetainfoError, PIECE_LEN_MAX,
    bencode::{push_bytes, push_number},
    merkle::{self, Shape},
};

/// Pieces that [`piece_len_for`] aims to stay below.
const PIECES_AIM: u64 = 2048;

/// A piece length for so many bytes of data: the shortest power of two from 64 KiB to 16 MiB that
/// makes no more than 2,048 pieces. Few enough for a small .torrent and bitfield, and short enough
/// that a v1 piece, which must be trusted as a whole, is soon there: 512 KiB for 1 GiB.
pub fn piece_len_for(data_len: u64) -> u32 {
    let lens = (16..24).map(|power| 1 << power);
    lens.into_iter()
        .find(|len| data_len.div_ceil(u64::from(*len)) <= PIECES_AIM)
        .unwrap_or(16 << 20)
}

/// Who can read what is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Every client; blocks are judged by whole pieces.
    V1,
    /// Clients of BEP 52; every block can be judged.
    V2,
    /// Both, with padding between files (BEP 47).
    #[default]
    Hybrid,
}

/// Why no torrent can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// There is no file, or the one that is has no bytes.
    #[error("there are no bytes to share")]
    Empty,
    /// A name is empty, `.` or `..`, or has a separator in it.
    #[error("{0:?} cannot be the name of a file: rename it")]
    Name(String),
    /// Two files have one path, or a file is another's folder.
    #[error("there are two files {0:?}: rename one")]
    Twice(String),
    /// A file does not have as many bytes as it had when it was looked at.
    #[error("{0:?} changed while it was read: try again when nobody writes to it")]
    Changed(String),
    /// Not a power of two from 16 KiB to 64 MiB.
    #[error("pieces of {0} bytes: take a power of two from {BLOCK_LEN} to {PIECE_LEN_MAX}")]
    PieceLen(u32),
    /// We could not read it ourselves.
    #[error(transparent)]
    Metainfo(#[from] MetainfoError),
}

/// A file as it goes into the torrent.
struct Source {
    /// Its place in what the caller gave.
    given: usize,
    path: Vec<String>,
    len: u64,
    root: Option<Hash>,
}

/// Hashes files into a torrent: nothing but hashes is kept. What is made of the same names and
/// bytes is the same torrent.
///
/// ```
/// # use sparewire_content::{Builder, CreateError};
/// # fn main() -> Result<(), CreateError> {
/// let files = vec![(vec!["b.txt".into()], 3), (vec!["a.txt".into()], 2)];
/// let mut builder = Builder::folder("letters", files)?;
/// while let Some((file, _)) = builder.wanted() {
///     let bytes: &[u8] = if file == 0 { b"bbb" } else { b"aa" };
///     builder.update(bytes)?;
/// }
/// let torrent = builder.finish()?;
/// assert_eq!(torrent.layout().path(0).to_str(), Some("letters/a.txt"));
/// # Ok(())
/// # }
/// ```
pub struct Builder {
    name: String,
    is_folder: bool,
    /// Sorted as in the file tree of BEP 52, and so that files of v1 come in the same order.
    files: Vec<Source>,
    format: Format,
    piece_len: u32,
    private: bool,
    trackers: Vec<Vec<String>>,
    /// The file that is read, and how much of it was.
    at: usize,
    read: u64,
    /// The piece of v1 that is hashed, how much of it was, and those before.
    sha1: Sha1,
    in_piece: u32,
    pieces: Vec<u8>,
    /// The block that is hashed, how much of it was, and the leaves and pieces before.
    sha256: Sha256,
    in_block: u32,
    leaves: Vec<Hash>,
    layer: Vec<Hash>,
    layers: BTreeMap<Hash, Vec<Hash>>,
}

impl Builder {
    /// Of one file.
    ///
    /// # Errors
    /// [`CreateError::Empty`], [`CreateError::Name`].
    pub fn file(name: &str, len: u64) -> Result<Self, CreateError> {
        Self::new(name, false, vec![(vec![name.to_owned()], len)])
    }

    /// Of a folder: each file's path in it, and its length in bytes.
    ///
    /// # Errors
    /// [`CreateError::Empty`], [`CreateError::Name`], [`CreateError::Twice`].
    pub fn folder(name: &str, files: Vec<(Vec<String>, u64)>) -> Result<Self, CreateError> {
        Self::new(name, true, files)
    }

    fn new(
        name: &str,
        is_folder: bool,
        files: Vec<(Vec<String>, u64)>,
    ) -> Result<Self, CreateError> {
        let unsound = |name: &&str| matches!(*name, "" | "." | "..") || name.contains(['/', '\0']);
        let names = files.iter().flat_map(|(path, _)| path).map(String::as_str);
        if let Some(name) = names.chain([name]).find(unsound) {
            return Err(CreateError::Name(name.into()));
        }
        let source = |(given, (path, len))| Source { given, path, len, root: None };
        let mut files: Vec<_> = files.into_iter().enumerate().map(source).collect();
        files.sort_by(|one, other| one.path.cmp(&other.path));
        if let Some(file) = files.iter().find(|file| file.path.is_empty()) {
            return Err(CreateError::Name(file.path.join("/")));
        }
        // Sorted, a path and those beneath it stand beside each other.
        let twice = files.windows(2).find(|pair| pair[1].path.starts_with(&pair[0].path));
        if let Some([file, _]) = twice {
            return Err(CreateError::Twice(file.path.join("/")));
        }
        let sum = files.iter().try_fold(0u64, |sum, file| sum.checked_add(file.len));
        let data_len = sum.ok_or(MetainfoError::Length)?;
        if data_len == 0 {
            return Err(CreateError::Empty);
        }
        let mut builder = Self {
            name: name.into(),
            is_folder,
            files,
            format: Format::default(),
            piece_len: piece_len_for(data_len),
            private: false,
            trackers: Vec::new(),
            at: 0,
            read: 0,
            sha1: Sha1::new(),
            in_piece: 0,
            pieces: Vec::new(),
            sha256: Sha256::new(),
            in_block: 0,
            leaves: Vec::new(),
            layer: Vec::new(),
            layers: BTreeMap::new(),
        };
        builder.skip_empty();
        Ok(builder)
    }

    /// Before the first byte: who shall be able to read it.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Before the first byte: another length of pieces than [`piece_len_for`] says.
    ///
    /// # Errors
    /// [`CreateError::PieceLen`].
    pub fn piece_len(mut self, len: u32) -> Result<Self, CreateError> {
        if !len.is_power_of_two() || !(BLOCK_LEN..=PIECE_LEN_MAX).contains(&len) {
            return Err(CreateError::PieceLen(len));
        }
        self.piece_len = len;
        Ok(self)
    }

    /// Tiers of trackers (BEP 12).
    #[must_use]
    pub fn trackers(mut self, tiers: Vec<Vec<String>>) -> Self {
        self.trackers = tiers;
        self
    }

    /// Peers shall be found by the trackers alone (BEP 27).
    #[must_use]
    pub fn private(mut self) -> Self {
        self.private = true;
        self
    }

    /// Which file's bytes come next, by its place in what was given, and how many. `None` once all
    /// is there.
    pub fn wanted(&self) -> Option<(usize, u64)> {
        let file = self.files.get(self.at)?;
        Some((file.given, file.len - self.read))
    }

    /// The next bytes of the file that [`Builder::wanted`] names: not beyond its end.
    ///
    /// # Errors
    /// [`CreateError::Changed`] where there are more than are wanted.
    pub fn update(&mut self, mut bytes: &[u8]) -> Result<(), CreateError> {
        let Some(file) = self.files.get(self.at) else {
            return if bytes.is_empty() { Ok(()) } else { Err(self.changed(self.at - 1)) };
        };
        let len = file.len;
        if bytes.len() as u64 > len - self.read {
            return Err(self.changed(self.at));
        }
        self.read += bytes.len() as u64;
        if self.format != Format::V2 {
            self.add_to_pieces(bytes);
        }
        if self.format != Format::V1 {
            while !bytes.is_empty() {
                let room = (BLOCK_LEN - self.in_block) as usize;
                let (now, later) = bytes.split_at(bytes.len().min(room));
                self.sha256.update(now);
                // At most a block.
                self.in_block += now.len() as u32;
                if self.in_block == BLOCK_LEN {
                    self.end_block();
                }
                bytes = later;
            }
        }
        if self.read == len {
            self.end_file();
            self.skip_empty();
        }
        Ok(())
    }

    /// The torrent.
    ///
    /// # Errors
    /// [`CreateError::Changed`] where bytes are missing; [`CreateError::Metainfo`] for what we would
    /// not read ourselves, as too many files.
    pub fn finish(mut self) -> Result<Metainfo, CreateError> {
        if self.at < self.files.len() {
            return Err(self.changed(self.at));
        }
        if self.in_piece > 0 {
            self.end_piece();
        }
        let mut out = vec![b'd'];
        if !self.trackers.is_empty() {
            push_bytes(&mut out, b"announce-list");
            out.push(b'l');
            for tier in &self.trackers {
                out.push(b'l');
                tier.iter().for_each(|url| push_bytes(&mut out, url.as_bytes()));
                out.push(b'e');
            }
            out.push(b'e');
        }
        push_bytes(&mut out, b"info");
        self.write_info(&mut out);
        if self.format != Format::V1 {
            push_bytes(&mut out, b"piece layers");
            out.push(b'd');
            for (root, layer) in &self.layers {
                push_bytes(&mut out, root);
                push_bytes(&mut out, layer.as_flattened());
            }
            out.push(b'e');
        }
        out.push(b'e');
        Ok(Metainfo::from_torrent(&out)?)
    }

    fn changed(&self, file: usize) -> CreateError {
        CreateError::Changed(self.files[file].path.join("/"))
    }

    fn skip_empty(&mut self) {
        while self.files.get(self.at).is_some_and(|file| file.len == 0) {
            self.at += 1;
        }
    }

    fn add_to_pieces(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = (self.piece_len - self.in_piece) as usize;
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.sha1.update(now);
            // At most a piece.
            self.in_piece += now.len() as u32;
            if self.in_piece == self.piece_len {
                self.end_piece();
            }
            bytes = later;
        }
    }

    fn end_piece(&mut self) {
        self.pieces.extend_from_slice(&self.sha1.finalize_reset());
        self.in_piece = 0;
    }

    fn end_block(&mut self) {
        self.leaves.push(self.sha256.finalize_reset().into());
        self.in_block = 0;
        if self.leaves.len() as u32 == self.piece_len / BLOCK_LEN {
            self.end_tree_piece();
        }
    }

    fn end_tree_piece(&mut self) {
        let levels = (self.piece_len / BLOCK_LEN).ilog2();
        let piece =
            merkle::root(&self.leaves, 0, levels).expect("no more leaves than the piece has");
        self.layer.push(piece);
        self.leaves.clear();
    }

    fn end_file(&mut self) {
        let last = !self.files[self.at + 1..].iter().any(|file| file.len > 0);
        if self.format == Format::Hybrid && !last && self.in_piece > 0 {
            let missing = (self.piece_len - self.in_piece) as usize;
            let zeros = [0; BLOCK_LEN as usize];
            for begin in (0..missing).step_by(zeros.len()) {
                self.add_to_pieces(&zeros[..zeros.len().min(missing - begin)]);
            }
        }
        if self.format != Format::V1 {
            if self.in_block > 0 {
                self.end_block();
            }
            let shape = Shape::new(self.read, self.piece_len);
            let root = if self.layer.is_empty() {
                // Less than a piece: the tree is no higher than its leaves need.
                merkle::root(&self.leaves, 0, shape.height())
            } else {
                if !self.leaves.is_empty() {
                    self.end_tree_piece();
                }
                let height = shape.piece_height();
                merkle::root(&self.layer, height, shape.height() - height)
            };
            let root = root.expect("as many as the shape has");
            self.leaves.clear();
            let layer = std::mem::take(&mut self.layer);
            if layer.len() > 1 {
                self.layers.insert(root, layer);
            }
            self.files[self.at].root = Some(root);
        }
        self.at += 1;
        self.read = 0;
    }

    fn write_info(&self, out: &mut Vec<u8>) {
        out.push(b'd');
        if self.format != Format::V1 {
            push_bytes(out, b"file tree");
            self.write_tree(out);
        }
        if self.format != Format::V2 {
            if self.is_folder {
                push_bytes(out, b"files");
                self.write_list(out);
            } else {
                push_bytes(out, b"length");
                push_number(out, self.files[0].len);
            }
        }
        if self.format != Format::V1 {
            push_bytes(out, b"meta version");
            push_number(out, 2);
        }
        push_bytes(out, b"name");
        push_bytes(out, self.name.as_bytes());
        push_bytes(out, b"piece length");
        push_number(out, u64::from(self.piece_len));
        if self.format != Format::V2 {
            push_bytes(out, b"pieces");
            push_bytes(out, &self.pieces);
        }
        if self.private {
            push_bytes(out, b"private");
            push_number(out, 1);
        }
        out.push(b'e');
    }

    fn write_tree(&self, out: &mut Vec<u8>) {
        out.push(b'd');
        let mut open: &[String] = &[];
        for file in &self.files {
            let (name, folder) = file.path.split_last().expect("no path is empty");
            let same = open.iter().zip(folder).take_while(|(one, other)| one == other).count();
            open[same..].iter().for_each(|_| out.push(b'e'));
            for name in &folder[same..] {
                push_bytes(out, name.as_bytes());
                out.push(b'd');
            }
            open = folder;
            push_bytes(out, name.as_bytes());
            out.extend_from_slice(b"d0:d");
            push_bytes(out, b"length");
            push_number(out, file.len);
            if let Some(root) = &file.root {
                push_bytes(out, b"pieces root");
                push_bytes(out, root);
            }
            out.extend_from_slice(b"ee");
        }
        open.iter().for_each(|_| out.push(b'e'));
        out.push(b'e');
    }

    fn write_list(&self, out: &mut Vec<u8>) {
        out.push(b'l');
        let mut end: u64 = 0;
        for file in &self.files {
            let gap = end.next_multiple_of(u64::from(self.piece_len)) - end;
            if self.format == Format::Hybrid && file.len > 0 && gap > 0 {
                out.push(b'd');
                push_bytes(out, b"attr");
                push_bytes(out, b"p");
                write_file(out, gap, &[".pad", &gap.to_string()]);
                end += gap;
            }
            out.push(b'd');
            write_file(out, file.len, &file.path);
            end += file.len;
        }
        out.push(b'e');
    }
}

/// The rest of a file's dictionary of v1.
fn write_file(out: &mut Vec<u8>, len: u64, path: &[impl AsRef<str>]) {
    push_bytes(out, b"length");
    push_number(out, len);
    push_bytes(out, b"path");
    out.push(b'l');
    path.iter().for_each(|name| push_bytes(out, name.as_ref().as_bytes()));
    out.extend_from_slice(b"ee");
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn path(path: &str) -> Vec<String> {
        path.split('/').map(Into::into).collect()
    }

    fn folder(files: &[(&str, u64)]) -> Result<Builder, CreateError> {
        Builder::folder("top", files.iter().map(|(name, len)| (path(name), *len)).collect())
    }

    fn fill(builder: &mut Builder) {
        while let Some((file, left)) = builder.wanted() {
            builder.update(&vec![file as u8; left as usize]).unwrap();
        }
    }

    #[test]
    fn pieces_grow_with_the_data() {
        for (data_len, piece_len) in [
            (1, 64 << 10),
            (128 << 20, 64 << 10),
            ((128 << 20) + 1, 128 << 10),
            (1 << 30, 512 << 10),
            (1 << 50, 16 << 20),
        ] {
            assert_eq!(piece_len_for(data_len), piece_len, "{data_len}");
        }
    }

    #[test]
    fn names_that_are_none_and_paths_that_meet_are_refused() {
        for name in ["", ".", "..", "a\0", "x/../y", "a//b"] {
            let refused = folder(&[(name, 1)]);
            assert!(matches!(refused, Err(CreateError::Name(_))), "{name}");
        }
        assert!(matches!(Builder::file("a/b", 1), Err(CreateError::Name(_))));
        assert!(matches!(Builder::folder("t", vec![(vec![], 1)]), Err(CreateError::Name(_))));
        for pair in [["a", "a"], ["a", "a/b"], ["a/b/c", "a/b"]] {
            let refused = folder(&pair.map(|name| (name, 1)));
            assert!(matches!(refused, Err(CreateError::Twice(_))), "{pair:?}");
        }
        assert!(folder(&[("a", 1), ("a.b", 1), ("a-b/c", 1)]).is_ok());
    }

    #[test]
    fn a_file_that_changed_meanwhile_is_named() {
        let mut builder = folder(&[("a", 3), ("b", 2)]).unwrap();
        assert_eq!(builder.wanted(), Some((0, 3)));
        builder.update(b"ab").unwrap();
        assert_eq!(builder.update(b"cd"), Err(CreateError::Changed("a".into())));
        builder.update(b"c").unwrap();
        assert_eq!(builder.wanted(), Some((1, 2)));
        assert_eq!(builder.finish().unwrap_err(), CreateError::Changed("b".into()));
        let mut builder = Builder::file("a", 1).unwrap();
        builder.update(b"a").unwrap();
        assert_eq!(builder.update(b"b"), Err(CreateError::Changed("a".into())));
    }

    #[test]
    fn nothing_is_no_torrent() {
        for files in [&[][..], &[("a", 0), ("b", 0)]] {
            assert!(matches!(folder(files), Err(CreateError::Empty)));
        }
        assert!(matches!(Builder::file("a", 0), Err(CreateError::Empty)));
        let sum = folder(&[("a", u64::MAX), ("b", 1)]);
        assert!(matches!(sum, Err(CreateError::Metainfo(MetainfoError::Length))));
    }

    #[test]
    fn what_is_made_is_read_whatever_the_files_lengths_are() {
        let files = [
            ("0", 0),
            ("a/1", 16_384),
            ("a/2", 16_385),
            ("a/b/c/3", 32_768),
            ("a/b/d", 1),
            ("a b", 32_769),
            ("e", 0),
            ("f/g", 98_304),
            ("z", 0),
        ];
        for format in [Format::V1, Format::V2, Format::Hybrid] {
            let mut builder = folder(&files).unwrap().format(format).piece_len(32_768).unwrap();
            fill(&mut builder);
            let made = builder.finish().unwrap();
            let layout = made.layout();
            let mut names: Vec<_> = (0..files.len()).map(|file| layout.path(file)).collect();
            names.sort();
            let mut given: Vec<std::path::PathBuf> =
                files.iter().map(|(name, _)| format!("top/{name}").into()).collect();
            given.sort();
            assert_eq!(names, given);
            assert_eq!(layout.data_len(), files.iter().map(|(_, len)| len).sum::<u64>());
            assert_eq!(made.geometry().pieces(), if format == Format::V1 { 7 } else { 9 });
            assert_eq!(made.missing_layers().count(), 0);
        }
    }

    #[test]
    fn only_powers_of_two_are_piece_lengths() {
        for len in [0, 1, 8 << 10, 48 << 10, 128 << 20] {
            let refused = Builder::file("a", 1).unwrap().piece_len(len);
            assert!(matches!(refused, Err(CreateError::PieceLen(_))), "{len}");
        }
    }
}
