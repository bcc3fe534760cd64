//! What a metainfo file may look like, as types of serde: nothing but borrowed bytes, bounded
//! numbers of them, and numbers as they stand there.

use std::{fmt, marker::PhantomData};

use librqbit_bencode::WithRawBytes;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::FILES_MAX;
use crate::{bencode, names::PATH_NAMES_MAX};

/// Most tiers, and most trackers of a tier, that are looked at.
const TRACKERS_MAX: usize = 64;

/// A .torrent file.
#[derive(Deserialize)]
pub(super) struct Torrent<'a> {
    #[serde(borrow)]
    pub(super) announce: Option<&'a [u8]>,
    #[serde(borrow, rename = "announce-list")]
    pub(super) announce_list: Option<Tiers<'a>>,
    #[serde(borrow)]
    pub(super) info: WithRawBytes<Info<'a>, &'a [u8]>,
    #[serde(borrow, rename = "piece layers")]
    pub(super) piece_layers: Option<PieceLayers<'a>>,
}

/// Tiers of trackers (BEP 12).
pub(super) type Tiers<'a> = Capped<Capped<&'a [u8], TRACKERS_MAX>, TRACKERS_MAX>;

/// The info dictionary of BEP 3, 52 or both.
#[derive(Deserialize)]
pub(super) struct Info<'a> {
    #[serde(borrow)]
    pub(super) name: Option<&'a [u8]>,
    #[serde(rename = "piece length")]
    pub(super) piece_len: i64,
    pub(super) private: Option<i64>,
    #[serde(borrow)]
    pub(super) pieces: Option<&'a [u8]>,
    pub(super) length: Option<i64>,
    #[serde(borrow)]
    pub(super) files: Option<Capped<ListedFile<'a>, FILES_MAX>>,
    #[serde(rename = "meta version")]
    pub(super) meta_version: Option<i64>,
    #[serde(borrow, rename = "file tree")]
    pub(super) file_tree: Option<FileTree<'a>>,
}

/// A file of BEP 3.
#[derive(Deserialize)]
pub(super) struct ListedFile<'a> {
    pub(super) length: Option<i64>,
    #[serde(borrow)]
    pub(super) path: Path<'a>,
    /// BEP 47.
    #[serde(borrow)]
    pub(super) attr: Option<&'a [u8]>,
}

/// The version alone: to tell a newer torrent from a broken one.
#[derive(Deserialize)]
pub(super) struct VersionOfTorrent {
    pub(super) info: VersionOfInfo,
}

/// See [`VersionOfTorrent`].
#[derive(Deserialize)]
pub(super) struct VersionOfInfo {
    #[serde(rename = "meta version")]
    pub(super) meta_version: Option<i64>,
}

/// A list of which only the first `N` are kept.
pub(super) struct Capped<T, const N: usize> {
    pub(super) items: Vec<T>,
    /// There were more.
    pub(super) more: bool,
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for Capped<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T, const N: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for List<T, N> {
            type Value = Capped<T, N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while items.len() < N {
                    match list.next_element()? {
                        Some(item) => items.push(item),
                        None => return Ok(Capped { items, more: false }),
                    }
                }
                let mut more = false;
                while list.next_element::<IgnoredAny>()?.is_some() {
                    more = true;
                }
                Ok(Capped { items, more })
            }
        }

        deserializer.deserialize_seq(List(PhantomData))
    }
}

/// A list of names as it stands in the file, so that many deep paths take no memory.
pub(super) struct Path<'a>(&'a [u8]);

impl<'a> Path<'a> {
    /// The names from the top down.
    pub(super) fn names(&self) -> impl DoubleEndedIterator<Item = &'a [u8]> + use<'a> {
        bencode::strings(self.0).collect::<Vec<_>>().into_iter()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Path<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of names")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut count = 0;
                while list.next_element::<&[u8]>()?.is_some() {
                    count += 1;
                }
                match count {
                    0 => Err(A::Error::custom("the path of a file is empty")),
                    1..=PATH_NAMES_MAX => Ok(self),
                    _ => Err(A::Error::custom("folders are nested too deep")),
                }
            }
        }

        impl<'de> Deserialize<'de> for Names {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_seq(Names)
            }
        }

        let path = WithRawBytes::<Names, &[u8]>::deserialize(deserializer)?;
        Ok(Self(path.raw_bytes))
    }
}

/// The piece layers, sorted by their roots. Keys that are no hash are left out.
pub(super) struct PieceLayers<'a>(Vec<(&'a [u8; 32], &'a [u8])>);

impl<'a> PieceLayers<'a> {
    /// The hashes beneath a root.
    pub(super) fn beneath(&self, root: &[u8; 32]) -> Option<&'a [u8]> {
        let at = self.0.binary_search_by_key(&root, |(root, _)| root).ok()?;
        Some(self.0[at].1)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for PieceLayers<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Layers;

        impl<'de> Visitor<'de> for Layers {
            type Value = PieceLayers<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a dictionary")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut layers = Vec::new();
                while let Some((root, layer)) = map.next_entry::<&[u8], &[u8]>()? {
                    if let Ok(root) = root.try_into() {
                        layers.push((root, layer));
                    }
                    if layers.len() > FILES_MAX {
                        return Err(A::Error::custom("more piece layers than files"));
                    }
                }
                layers.sort_by_key(|(root, _)| *root);
                Ok(PieceLayers(layers))
            }
        }

        deserializer.deserialize_map(Layers)
    }
}

/// The files of BEP 52 in their order, their folders as a tree.
#[derive(Default)]
pub(super) struct FileTree<'a> {
    /// Names of folders and files; a folder comes before what is in it.
    pub(super) names: Vec<TreeName<'a>>,
    pub(super) files: Vec<TreeFile<'a>>,
}

/// A name in the tree.
pub(super) struct TreeName<'a> {
    /// The folder, unless it is at the top.
    pub(super) parent: Option<u32>,
    pub(super) name: &'a [u8],
}

/// A file in the tree.
pub(super) struct TreeFile<'a> {
    /// Its place among the names.
    pub(super) name: u32,
    pub(super) properties: Properties<'a>,
}

/// What BEP 52 and 47 say of a file.
#[derive(Deserialize)]
pub(super) struct Properties<'a> {
    pub(super) length: Option<i64>,
    #[serde(borrow, rename = "pieces root")]
    pub(super) pieces_root: Option<&'a [u8]>,
    #[serde(borrow)]
    pub(super) attr: Option<&'a [u8]>,
}

impl<'a> FileTree<'a> {
    /// The names of a path from its last one to its first.
    pub(super) fn path_upwards(&self, name: u32) -> impl Iterator<Item = &'a [u8]> + '_ {
        let up = |at: &u32| self.names[*at as usize].parent;
        std::iter::successors(Some(name), up).map(|at| self.names[at as usize].name)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for FileTree<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut tree = FileTree::default();
        TreeFolder { tree: &mut tree, name: None, depth: 0 }.deserialize(deserializer)?;
        Ok(tree)
    }
}

/// Reads what is in a folder, or the one entry that makes it a file.
struct TreeFolder<'t, 'a> {
    tree: &'t mut FileTree<'a>,
    name: Option<u32>,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for TreeFolder<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TreeFolder<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a dictionary")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut before: Option<&[u8]> = None;
        while let Some(name) = map.next_key::<&[u8]>()? {
            // The order of files is that of their names: it must not be left open. A file's empty
            // name comes first and must be alone.
            if before.is_some_and(|before| before.is_empty() || before >= name) {
                return Err(A::Error::custom("names of the file tree are not in their order"));
            }
            before = Some(name);
            if name.is_empty() {
                let name =
                    self.name.ok_or_else(|| A::Error::custom("the file tree has no name"))?;
                let file = TreeFile { name, properties: map.next_value()? };
                self.tree.files.push(file);
                continue;
            }
            if self.depth == PATH_NAMES_MAX {
                return Err(A::Error::custom("folders of the file tree are nested too deep"));
            }
            // As many folders as files: else there are empty ones, of which nothing is made.
            if self.tree.names.len() == 2 * FILES_MAX {
                return Err(A::Error::custom("too many names in the file tree"));
            }
            let at = u32::try_from(self.tree.names.len()).map_err(A::Error::custom)?;
            self.tree.names.push(TreeName { parent: self.name, name });
            let inner = TreeFolder { tree: self.tree, name: Some(at), depth: self.depth + 1 };
            map.next_value_seed(inner)?;
        }
        Ok(())
    }
}
