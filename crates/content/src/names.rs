//! Names out of a torrent, made safe to be created on any computer.
//!
//! A name in a torrent is any bytes. It is never refused, but changed until it is one that names a
//! file in its folder on every system: the changes are the same everywhere, so that a download goes
//! on under the names with which it began. No two files of a torrent get one name, also where the
//! file system ignores case or Unicode forms.

use std::{
    borrow::Cow,
    collections::{BTreeMap, btree_map::Entry},
};

use sha2::{Digest, Sha256};
use unicode_normalization::UnicodeNormalization;

/// The longest name, in bytes of UTF-8: below the 255 of usual file systems, with room for a number
/// and for a suffix of whoever writes the file.
pub const NAME_LEN_MAX: usize = 230;
/// The longest path within a torrent, in bytes with separators.
pub const PATH_LEN_MAX: usize = 2048;
/// Most names in a path, its file's included.
pub const PATH_NAMES_MAX: usize = 64;

/// The name itself where it is safe, or a similar one that is.
///
/// `_` stands for what is no UTF-8, control characters, separators and whatever else Windows
/// forbids, what turns the direction of writing or cannot be seen, and dots and blanks at the end
/// (so for `.` and `..` too). Names of devices get one in front, the empty name is `_`, and one that
/// is too long is cut and gets a part of its hash.
pub fn safe_name(raw: &[u8]) -> Cow<'_, str> {
    let text = match std::str::from_utf8(raw) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => {
            Cow::Owned(String::from_utf8_lossy(raw).replace(char::REPLACEMENT_CHARACTER, "_"))
        }
    };
    let kept = text.trim_end_matches(['.', ' ']).len();
    let sound = kept == text.len()
        && (1..=NAME_LEN_MAX).contains(&text.len())
        && !text.chars().any(is_unsafe)
        && !is_device(&text);
    if sound {
        return text;
    }
    let mut name: String =
        text[..kept].chars().map(|c| if is_unsafe(c) { '_' } else { c }).collect();
    name.extend(std::iter::repeat_n('_', text.len() - kept));
    if name.is_empty() || is_device(&name) {
        name.insert(0, '_');
    }
    if name.len() > NAME_LEN_MAX {
        let hash = Sha256::digest(raw);
        let tail = format!("~{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3]);
        let (stem, extension) = split_extension(&name);
        let room = NAME_LEN_MAX - tail.len() - extension.len();
        name = format!("{}{tail}{extension}", &stem[..stem.floor_char_boundary(room)]);
    }
    Cow::Owned(name)
}

/// What has no place in a name, or would show people another name than it is.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '/' | '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|')
        || matches!(
            c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180b}'..='\u{180f}'
        )
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// Whether Windows takes the name for a device, whatever its extension and case are.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end();
    let stem = stem.to_ascii_uppercase();
    if matches!(&*stem, "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$" | "CLOCK$") {
        return true;
    }
    let number = stem.strip_prefix("COM").or_else(|| stem.strip_prefix("LPT"));
    let mut number = number.unwrap_or_default().chars();
    matches!((number.next(), number.next()), (Some('0'..='9' | '¹' | '²' | '³'), None))
}

/// A name before its extension, and that with its dot: of at most 16 bytes, else it is none.
fn split_extension(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(at) if at > 0 && name.len() - at <= 16 => name.split_at(at),
        _ => (name, ""),
    }
}

/// Under what two names are one on some file system: without case, and in one Unicode form. Only
/// its hash is kept; two names with one hash would be told apart needlessly, and nothing worse.
fn folded(name: &str) -> [u8; 16] {
    let hash = if name.is_ascii() {
        Sha256::digest(name.to_ascii_lowercase())
    } else {
        // Both ways: there are letters with two lower or two upper cases.
        let upper = name.nfkd().flat_map(char::to_uppercase);
        Sha256::digest(upper.flat_map(char::to_lowercase).nfkd().collect::<String>())
    };
    let mut short = [0; 16];
    short.copy_from_slice(&hash[..16]);
    short
}

/// A folder of a torrent, by its place in [`Folders`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FolderId(u32);

/// Where the torrent is put.
pub(crate) const TOP: FolderId = FolderId(0);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Folder {
    parent: FolderId,
    name: Box<str>,
}

/// The folders of a torrent as a tree, so that a path costs what its last name costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folders(Vec<Folder>);

impl Folders {
    /// The names from the top down to a folder, the top left out.
    pub(crate) fn names(&self, folder: FolderId) -> Vec<&str> {
        let mut names = Vec::new();
        let mut at = folder;
        while at != TOP {
            let folder = &self.0[at.0 as usize];
            names.push(&*folder.name);
            at = folder.parent;
        }
        names.reverse();
        names
    }
}

/// Why there is no name for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// Its path would be longer than [`PATH_LEN_MAX`] or deeper than [`PATH_NAMES_MAX`].
    TooLong,
    /// There are [`FOLDERS_MAX`] folders.
    TooMany,
}

/// Most folders of a torrent.
const FOLDERS_MAX: usize = 2 * crate::FILES_MAX;

/// Gives out safe names, no two of them alike in one folder.
pub(crate) struct Namer {
    folders: Vec<Folder>,
    /// Bytes and names of the path down to each folder.
    sizes: Vec<(usize, usize)>,
    taken: BTreeMap<(FolderId, [u8; 16]), Taken>,
    changed: usize,
}

/// Who has a name.
#[derive(Default)]
struct Taken {
    /// Where what the torrent says of a folder of this name is found. Another than has the name,
    /// if a file had it first.
    folder: Option<FolderId>,
    /// The last number tried for another that wanted it.
    number: u32,
}

impl Namer {
    pub(crate) fn new() -> Self {
        Self {
            folders: vec![Folder { parent: TOP, name: "".into() }],
            sizes: vec![(0, 0)],
            taken: BTreeMap::new(),
            changed: 0,
        }
    }

    /// The folder that is called so in `parent`.
    pub(crate) fn folder(&mut self, parent: FolderId, raw: &[u8]) -> Result<FolderId, NoPlace> {
        let wanted = safe_name(raw);
        let key = (parent, folded(&wanted));
        if let Some(Taken { folder: Some(folder), .. }) = self.taken.get(&key) {
            return Ok(*folder);
        }
        if self.folders.len() >= FOLDERS_MAX {
            return Err(NoPlace::TooMany);
        }
        let name = self.claim(parent, raw, &wanted)?;
        let (bytes, names) = self.sizes[parent.0 as usize];
        // Below the bound, and so a `u32`.
        let folder = FolderId(self.folders.len() as u32);
        self.sizes.push((bytes + name.len() + 1, names + 1));
        self.folders.push(Folder { parent, name });
        self.taken.entry(key).or_default().folder = Some(folder);
        Ok(folder)
    }

    /// The name for a file that is called so.
    pub(crate) fn file(&mut self, parent: FolderId, raw: &[u8]) -> Result<Box<str>, NoPlace> {
        self.claim(parent, raw, &safe_name(raw))
    }

    fn claim(&mut self, parent: FolderId, raw: &[u8], wanted: &str) -> Result<Box<str>, NoPlace> {
        let first = (parent, folded(wanted));
        let mut name = Cow::Borrowed(wanted);
        // The number only grows, so that many files of one name cost no more than that many steps.
        loop {
            if let Entry::Vacant(vacant) = self.taken.entry((parent, folded(&name))) {
                vacant.insert(Taken::default());
                break;
            }
            let taken = self.taken.entry(first).or_default();
            taken.number = taken.number.max(1) + 1;
            let (stem, extension) = split_extension(wanted);
            name = Cow::Owned(format!("{stem} ({}){extension}", taken.number));
        }
        let (bytes, names) = self.sizes[parent.0 as usize];
        if bytes + name.len() > PATH_LEN_MAX || names + 1 > PATH_NAMES_MAX {
            return Err(NoPlace::TooLong);
        }
        self.changed += usize::from(name.as_bytes() != raw);
        Ok(name.into())
    }

    /// The folders, and how many names are not what the torrent says.
    pub(crate) fn finish(self) -> (Folders, usize) {
        (Folders(self.folders), self.changed)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_stay_as_they_are() {
        for name in [
            "a",
            "Read me.txt",
            ".hidden",
            "a..b",
            "Über – 日本語.mkv",
            "COM",
            "COM10",
            "con-fused",
            "naïve e\u{301}",
            "🎬",
            "console.log",
            "~",
            "-rf",
        ] {
            assert_eq!(safe_name(name.as_bytes()), name);
        }
    }

    #[test]
    fn names_that_lead_elsewhere_or_lie_are_changed() {
        for (raw, safe) in [
            (&b""[..], "_"),
            (b".", "_"),
            (b"..", "__"),
            (b"...", "___"),
            (b"a. .", "a___"),
            (b"/etc/passwd", "_etc_passwd"),
            (b"..\\..\\x", ".._.._x"),
            (b"C:\\x", "C__x"),
            (b"a\0b\nc\x7f", "a_b_c_"),
            (b"a:stream", "a_stream"),
            (b"con", "_con"),
            (b"NUL.txt", "_NUL.txt"),
            (b"aux .tar.gz", "_aux .tar.gz"),
            (b"COM1", "_COM1"),
            ("lpt².x".as_bytes(), "_lpt².x"),
            (b"CONIN$", "_CONIN$"),
            (b"\xff\xfe.txt", "__.txt"),
            (b"\xc0\xae\xc0\xae", "____"),
            ("photo\u{202e}gpj.exe".as_bytes(), "photo_gpj.exe"),
            ("a\u{200b}b\u{feff}\u{85}".as_bytes(), "a_b__"),
        ] {
            assert_eq!(safe_name(raw), safe, "{raw:?}");
        }
    }

    #[test]
    fn a_safe_name_is_its_own_safe_name() {
        let long = "é".repeat(400) + ".tar.gz";
        for raw in [&b".."[..], b"NUL", b"CON.", b"a\xff ", long.as_bytes(), b"COM1:"] {
            let once = safe_name(raw).into_owned();
            assert_eq!(safe_name(once.as_bytes()), once, "{raw:?}");
        }
    }

    #[test]
    fn a_long_name_is_cut_between_characters_and_keeps_its_extension() {
        let name = |last| "é".repeat(400) + last + ".mkv";
        let (one, other) = (name("1"), name("2"));
        let (one, other) = (safe_name(one.as_bytes()), safe_name(other.as_bytes()));
        assert!(one.len() <= NAME_LEN_MAX && one.ends_with(".mkv"), "{one}");
        assert_ne!(one, other);
    }

    fn files(namer: &mut Namer, names: &[&str]) -> Vec<String> {
        let name = |raw: &&str| namer.file(TOP, raw.as_bytes()).unwrap().into_string();
        names.iter().map(name).collect()
    }

    #[test]
    fn files_that_some_file_system_takes_for_one_get_numbers() {
        let mut namer = Namer::new();
        let wanted =
            ["a.txt", "A.TXT", "a (2).txt", "a.txt", "é", "e\u{301}", "É", "straße", "STRASSE"];
        let got = files(&mut namer, &wanted);
        let expected = [
            "a.txt",
            "A (2).TXT",
            "a (2) (2).txt",
            "a (3).txt",
            "é",
            "e\u{301} (2)",
            "É (3)",
            "straße",
            "STRASSE (2)",
        ];
        assert_eq!(got, expected);
        assert_eq!(namer.finish().1, 6);
    }

    #[test]
    fn a_file_that_is_also_a_folder_leaves_both() {
        let mut namer = Namer::new();
        assert_eq!(files(&mut namer, &["x"]), ["x"]);
        let folder = namer.folder(TOP, b"x").unwrap();
        assert_eq!(namer.folder(TOP, b"X").unwrap(), folder);
        assert_eq!(&*namer.file(folder, b"y").unwrap(), "y");
        assert_eq!(files(&mut namer, &["X"]), ["X (3)"]);
        assert_eq!(namer.finish().0.names(folder), ["x (2)"]);
    }

    #[test]
    fn paths_are_bounded() {
        let mut namer = Namer::new();
        let mut folder = TOP;
        for _ in 0..PATH_NAMES_MAX - 1 {
            folder = namer.folder(folder, b"x").unwrap();
        }
        assert!(namer.file(folder, b"x").is_ok());
        let deepest = namer.folder(folder, b"d").unwrap();
        assert!(namer.file(deepest, b"x").is_err());

        let mut folder = TOP;
        let long = [b'x'; NAME_LEN_MAX];
        for _ in 0..PATH_LEN_MAX / (NAME_LEN_MAX + 1) {
            folder = namer.folder(folder, &long).unwrap();
        }
        assert!(namer.file(folder, &long).is_err());
    }

    #[test]
    fn ten_thousand_files_of_one_name_take_ten_thousand_steps() {
        let mut namer = Namer::new();
        for number in 2..10_000 {
            namer.file(TOP, format!("a ({number})").as_bytes()).unwrap();
        }
        for _ in 0..10_000 {
            namer.file(TOP, b"a").unwrap();
        }
        let (_, taken) = namer.taken.iter().max_by_key(|(_, taken)| taken.number).unwrap();
        assert_eq!(taken.number, 19_998);
    }
}
