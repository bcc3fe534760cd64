//! Where a torrent's bytes are: pieces on one side, files on the other.

use std::path::PathBuf;

use crate::names::{FolderId, Folders};

/// A file of a torrent. Padding (BEP 47) is none, but the gap between two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub(crate) folder: FolderId,
    pub(crate) name: Box<str>,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) root: Option<[u8; 32]>,
}

impl File {
    /// Its name, safe to be created and shown.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a file without bytes is no special case")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Where it begins, in bytes from the first piece's beginning.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The root of its hash tree (BEP 52): of a file that has bytes in a v2 or hybrid torrent.
    pub fn root(&self) -> Option<[u8; 32]> {
        self.root
    }

    fn end(&self) -> u64 {
        self.offset + self.len
    }
}

/// A run of bytes within one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Which of [`Layout::files`]. `None` is padding: zeros that are stored nowhere.
    pub file: Option<usize>,
    /// Where it begins in the file, in bytes; 0 for padding.
    pub offset: u64,
    /// Its length in bytes, at least 1.
    pub len: u32,
}

/// Files in the order of the torrent, and what of the pieces each holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub(crate) folders: Folders,
    /// Neither offsets nor ends ever decrease.
    pub(crate) files: Vec<File>,
    pub(crate) piece_len: u32,
    /// Where the last piece ends, padding included.
    pub(crate) len: u64,
}

impl Layout {
    /// All files, in the order of the torrent.
    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// Where a file goes, relative to the folder for downloads: one to 64 names, each safe on every
    /// system, and no two files alike even where case is ignored.
    ///
    /// # Panics
    /// Where there is no such file.
    pub fn path(&self, file: usize) -> PathBuf {
        let file = &self.files[file];
        self.folders.names(file.folder).into_iter().chain([&*file.name]).collect()
    }

    /// Where the last piece ends, in bytes from the first one's beginning: with padding.
    pub fn end(&self) -> u64 {
        self.len
    }

    /// Data bytes of all files.
    pub fn data_len(&self) -> u64 {
        self.files.iter().map(|file| file.len).sum()
    }

    /// The pieces that hold bytes of a file, which may be none.
    ///
    /// # Panics
    /// Where there is no such file.
    pub fn pieces(&self, file: usize) -> std::ops::Range<u32> {
        let file = &self.files[file];
        // A torrent has at most 2^24 pieces.
        let piece = |at: u64| (at / u64::from(self.piece_len)) as u32;
        match file.len {
            0 => piece(file.offset)..piece(file.offset),
            _ => piece(file.offset)..piece(file.end() - 1) + 1,
        }
    }

    /// The file in which a piece begins: of BEP 52 the only one of which it holds bytes. `None` for
    /// a piece that begins with padding, or does not exist.
    pub fn file_at(&self, piece: u32) -> Option<usize> {
        self.extents(piece, 0, 1).next()?.file
    }

    /// Where `len` bytes of a piece from `begin` on are, in order; nothing beyond the last piece.
    pub fn extents(&self, piece: u32, begin: u32, len: u32) -> Extents<'_> {
        let at = u64::from(piece) * u64::from(self.piece_len) + u64::from(begin);
        let end = (at + u64::from(len)).min(self.len);
        let file = self.files.partition_point(|file| file.end() <= at);
        Extents { layout: self, file, at, end }
    }
}

/// See [`Layout::extents`].
#[derive(Clone, Debug)]
pub struct Extents<'a> {
    layout: &'a Layout,
    file: usize,
    at: u64,
    end: u64,
}

impl Iterator for Extents<'_> {
    type Item = Extent;

    fn next(&mut self) -> Option<Extent> {
        if self.at >= self.end {
            return None;
        }
        let begin = self.at;
        // A length of at most `u32::MAX` was asked for.
        let extent = |file, offset, to: u64| Extent { file, offset, len: (to - begin) as u32 };
        while let Some(file) = self.layout.files.get(self.file) {
            if begin < file.offset {
                self.at = self.end.min(file.offset);
                return Some(extent(None, 0, self.at));
            }
            if begin < file.end() {
                self.at = self.end.min(file.end());
                return Some(extent(Some(self.file), begin - file.offset, self.at));
            }
            self.file += 1;
        }
        self.at = self.end;
        Some(extent(None, 0, self.end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{Namer, TOP};
    use proptest::prelude::*;

    fn layout(files: &[(u64, u64)], piece_len: u32, len: u64) -> Layout {
        let file = |&(offset, len): &(u64, u64)| File {
            folder: TOP,
            name: "x".into(),
            offset,
            len,
            root: None,
        };
        let files = files.iter().map(file).collect();
        Layout { folders: Namer::new().finish().0, files, piece_len, len }
    }

    fn of(file: usize, offset: u64, len: u32) -> Extent {
        Extent { file: Some(file), offset, len }
    }

    #[test]
    fn a_block_is_cut_at_files_and_padding() {
        let layout = layout(&[(0, 10), (10, 0), (10, 3), (16, 5), (30, 0), (32, 0)], 16, 32);
        let extents = |piece, begin, len| layout.extents(piece, begin, len).collect::<Vec<_>>();
        let padding = |len| Extent { file: None, offset: 0, len };
        assert_eq!(extents(0, 0, 16), [of(0, 0, 10), of(2, 0, 3), padding(3)]);
        assert_eq!(extents(0, 9, 2), [of(0, 9, 1), of(2, 0, 1)]);
        assert_eq!(extents(0, 14, 4), [padding(2), of(3, 0, 2)]);
        assert_eq!(extents(1, 4, 100), [of(3, 4, 1), padding(9), padding(2)]);
        assert_eq!(extents(2, 0, 16), []);
        assert_eq!(extents(u32::MAX, u32::MAX, u32::MAX), []);
        assert_eq!(extents(0, 5, 0), []);
    }

    #[test]
    fn a_file_knows_its_pieces() {
        let layout = layout(&[(0, 16), (16, 1), (17, 0), (17, 40)], 16, 57);
        let pieces: Vec<_> = (0..4).map(|file| layout.pieces(file)).collect();
        assert_eq!(pieces, [0..1, 1..2, 1..1, 1..4]);
        assert_eq!(
            (0..5).map(|piece| layout.file_at(piece)).collect::<Vec<_>>(),
            [Some(0), Some(1), Some(3), Some(3), None]
        );
    }

    proptest! {
        /// A slow twin: one byte after the other.
        #[test]
        fn extents_say_of_every_byte_where_it_is(
            parts in prop::collection::vec((0u64..6, 0u64..40), 0..12),
            piece_len in 1u32..24, begin in 0u32..30, len in 0u32..90, piece in 0u32..20,
        ) {
            let mut at = 0;
            let mut files = Vec::new();
            let mut owners = Vec::new();
            for (file, (gap, len)) in parts.iter().enumerate() {
                at += gap;
                files.push((at, *len));
                owners.extend((0..*gap).map(|_| None));
                owners.extend((0..*len).map(|offset| Some((file, offset))));
                at += len;
            }
            let layout = layout(&files, piece_len, at);
            let from = (piece as usize * piece_len as usize + begin as usize).min(owners.len());
            let to = (from + len as usize).min(owners.len());
            let mut bytes = Vec::new();
            for extent in layout.extents(piece, begin, len) {
                prop_assert!(extent.len > 0);
                bytes.extend((0..u64::from(extent.len)).map(|byte| {
                    extent.file.map(|file| (file, extent.offset + byte))
                }));
            }
            prop_assert_eq!(&bytes[..], &owners[from..to]);
        }
    }
}
