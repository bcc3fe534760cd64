//! The files of a torrent, out of either half of its info dictionary.

use super::{
    DATA_LEN_MAX, MetainfoError,
    shape::{FileTree, Info, ListedFile},
};
use crate::{
    File, Hash, Layout,
    names::{FolderId, Namer, NoPlace, TOP},
};

/// What was found.
pub(super) struct Files {
    pub(super) layout: Layout,
    /// Names that had to be changed.
    pub(super) renamed: usize,
}

/// Reads the files of v1 (`has_list`), v2 (`has_trees`), or of both, which must then be the same.
pub(super) fn read(
    info: &Info<'_>,
    piece_len: u32,
    has_list: bool,
    has_trees: bool,
) -> Result<Files, MetainfoError> {
    let namer = Namer::new();
    if !has_trees {
        return from_list(info, namer, piece_len);
    }
    let tree = info.file_tree.as_ref().ok_or(MetainfoError::NoFiles)?;
    let entries = tree_entries(tree, piece_len)?;
    let mut end = entries.last().map_or(0, |entry| entry.offset + entry.len);
    let alone = match tree.files.as_slice() {
        // BEP 52: one file and nothing else stands for itself. BEP 3 says so of a length.
        _ if has_list => info.files.is_none(),
        [file] => tree.names[file.name as usize].parent.is_none() && tree.names.len() == 1,
        _ => false,
    };
    if has_list {
        let with_padding = same_as_list(info, tree, &entries)?;
        // Padding at the end fills the last piece, and makes no more.
        let pieces = |end: u64| end.div_ceil(u64::from(piece_len));
        if pieces(with_padding) != pieces(end) {
            return Err(MetainfoError::Hybrid);
        }
        end = with_padding;
    }
    from_tree(info, tree, entries, alone, namer, piece_len, end)
}

/// A file of v1 that is neither padding nor a symlink, or of v2.
struct Entry {
    /// Its place in the list or in the tree.
    at: usize,
    offset: u64,
    len: u64,
    root: Option<Hash>,
}

/// The length of a file, and what else it is.
fn kind(length: Option<i64>, attr: Option<&[u8]>) -> Result<(u64, Kind), MetainfoError> {
    let len = length.map(u64::try_from).transpose().map_err(|_| MetainfoError::Length)?;
    let attr = attr.unwrap_or_default();
    match (attr.contains(&b'p'), attr.contains(&b'l'), len) {
        (false, true, None | Some(0)) => Ok((0, Kind::Symlink)),
        (false, true, Some(_)) => Err(MetainfoError::Symlink),
        (_, _, None) => Err(MetainfoError::Length),
        (true, _, Some(len)) => Ok((len, Kind::Padding)),
        (_, _, Some(len)) => Ok((len, Kind::File)),
    }
}

/// What an entry is by BEP 47.
#[derive(PartialEq, Eq)]
enum Kind {
    File,
    Padding,
    /// Left out: it could lead out of the folder, and nobody needs it for the data.
    Symlink,
}

/// The files of v1 with padding left out, and where the last piece ends.
fn list_entries(files: &[ListedFile<'_>]) -> Result<(Vec<Entry>, u64), MetainfoError> {
    let mut entries = Vec::new();
    let mut offset: u64 = 0;
    for (at, file) in files.iter().enumerate() {
        let (len, kind) = kind(file.length, file.attr)?;
        if kind == Kind::File {
            entries.push(Entry { at, offset, len, root: None });
        }
        let end = offset.checked_add(len).filter(|end| *end <= DATA_LEN_MAX);
        offset = end.ok_or(MetainfoError::Length)?;
    }
    Ok((entries, offset))
}

fn from_list(info: &Info<'_>, mut namer: Namer, piece_len: u32) -> Result<Files, MetainfoError> {
    let name = info.name.unwrap_or_default();
    let mut files = Vec::new();
    let end;
    match &info.files {
        None => {
            let length = info.length.ok_or(MetainfoError::NoFiles)?;
            end = kind(Some(length), None)?.0;
            if end > DATA_LEN_MAX {
                return Err(MetainfoError::Length);
            }
            let name = namer.file(TOP, name)?;
            files.push(File { folder: TOP, name, offset: 0, len: end, root: None });
        }
        Some(list) if list.more => return Err(MetainfoError::TooManyFiles),
        Some(list) => {
            let top = namer.folder(TOP, name)?;
            let (entries, all) = list_entries(&list.items)?;
            end = all;
            for Entry { at, offset, len, root } in entries {
                let mut names = list.items[at].path.names();
                let last = names.next_back().ok_or(MetainfoError::NoFiles)?;
                let mut folder = top;
                for name in names {
                    folder = namer.folder(folder, name)?;
                }
                let name = namer.file(folder, last)?;
                files.push(File { folder, name, offset, len, root });
            }
        }
    }
    finish(namer, files, piece_len, end)
}

/// The files of v2: each with bytes begins at a piece of its own.
fn tree_entries(tree: &FileTree<'_>, piece_len: u32) -> Result<Vec<Entry>, MetainfoError> {
    let mut entries = Vec::new();
    let mut end: u64 = 0;
    for (at, file) in tree.files.iter().enumerate() {
        let (len, kind) = kind(file.properties.length, file.properties.attr)?;
        if kind != Kind::File {
            // There is no padding in the tree of v2; what says so has no place to go.
            if len > 0 {
                return Err(MetainfoError::Length);
            }
            continue;
        }
        let root = match (len, file.properties.pieces_root) {
            (0, _) => None,
            (_, root) => {
                let root = root.and_then(|root| root.try_into().ok());
                Some(root.ok_or(MetainfoError::Root)?)
            }
        };
        let offset = if len > 0 { end.next_multiple_of(u64::from(piece_len)) } else { end };
        let sum = offset.checked_add(len).filter(|end| *end <= DATA_LEN_MAX);
        end = sum.ok_or(MetainfoError::Length)?;
        entries.push(Entry { at, offset, len, root });
    }
    Ok(entries)
}

/// Compares both halves of a hybrid torrent: paths, lengths and where each file begins. Where the
/// last piece of v1 ends, which may have padding at its end.
fn same_as_list(
    info: &Info<'_>,
    tree: &FileTree<'_>,
    entries: &[Entry],
) -> Result<u64, MetainfoError> {
    let name = |entry: &Entry| tree.files[entry.at].name;
    let Some(list) = &info.files else {
        let [entry] = entries else { return Err(MetainfoError::Hybrid) };
        let same = info.length.and_then(|len| u64::try_from(len).ok()) == Some(entry.len)
            && tree.path_upwards(name(entry)).eq([info.name.unwrap_or_default()]);
        return if same { Ok(entry.len) } else { Err(MetainfoError::Hybrid) };
    };
    if list.more {
        return Err(MetainfoError::TooManyFiles);
    }
    let (listed, end) = list_entries(&list.items)?;
    let same = |(one, other): (&Entry, &Entry)| {
        let path = list.items[one.at].path.names().rev();
        // A file without bytes is nowhere.
        let place = one.len == 0 || one.offset == other.offset;
        one.len == other.len && place && path.eq(tree.path_upwards(name(other)))
    };
    let same = listed.len() == entries.len() && listed.iter().zip(entries).all(same);
    if same { Ok(end) } else { Err(MetainfoError::Hybrid) }
}

fn from_tree(
    info: &Info<'_>,
    tree: &FileTree<'_>,
    entries: Vec<Entry>,
    alone: bool,
    mut namer: Namer,
    piece_len: u32,
    end: u64,
) -> Result<Files, MetainfoError> {
    let top = match alone {
        true => TOP,
        false => namer.folder(TOP, info.name.unwrap_or_default())?,
    };
    // A folder is made when a file in it is, once.
    let mut folders: Vec<Option<FolderId>> = vec![None; tree.names.len()];
    let mut files = Vec::with_capacity(entries.len());
    for Entry { at, offset, len, root } in entries {
        let file = &tree.names[tree.files[at].name as usize];
        let mut above = Vec::new();
        let mut parent = file.parent;
        let mut folder = top;
        while let Some(name) = parent {
            if let Some(known) = folders[name as usize] {
                folder = known;
                break;
            }
            above.push(name);
            parent = tree.names[name as usize].parent;
        }
        for name in above.into_iter().rev() {
            folder = namer.folder(folder, tree.names[name as usize].name)?;
            folders[name as usize] = Some(folder);
        }
        let name = namer.file(folder, file.name)?;
        files.push(File { folder, name, offset, len, root });
    }
    finish(namer, files, piece_len, end)
}

fn finish(
    namer: Namer,
    files: Vec<File>,
    piece_len: u32,
    len: u64,
) -> Result<Files, MetainfoError> {
    if files.is_empty() {
        return Err(MetainfoError::NoFiles);
    }
    let (folders, renamed) = namer.finish();
    Ok(Files { layout: Layout { folders, files, piece_len, len }, renamed })
}

impl From<NoPlace> for MetainfoError {
    fn from(no: NoPlace) -> Self {
        match no {
            NoPlace::TooLong => MetainfoError::PathTooLong,
            NoPlace::TooMany => MetainfoError::TooManyFiles,
        }
    }
}
