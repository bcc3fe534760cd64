//! A torrent on disk: its pieces in its files, which of them are there, and what casts doubt on it.

use std::{
    collections::BTreeMap,
    io::IoSlice,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest, Sha256};
use sparewire_content::{Bitfield, Block, Hash, Metainfo};

use super::{
    files::{DiskError, FileSpec, Files, Handles, Stamp},
    have::Remembered,
    leaf_file::LeafFile,
    parts::Parts,
};

/// How much is read at once to check a piece, in bytes.
const CHECK_LEN: u32 = 256 << 10;

/// What has become of a piece that we say we have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is there.
    Good,
    /// It was never there.
    Absent,
    /// Its files were changed since it was checked, and it is not there any more.
    Spoilt,
}

/// One torrent's storage. Its functions read and write files: they belong on blocking threads.
#[derive(Debug)]
pub struct Storage {
    metainfo: Arc<Metainfo>,
    files: Files,
    /// Where it is remembered what is there; `None` forgets.
    remembered_at: Option<PathBuf>,
    /// What is remembered of pieces that are not whole.
    parts: Parts,
    /// Where the leaf hashes of what is there are; `None` without hash trees, and where it forgets.
    leaf_file: Option<LeafFile>,
    /// Of the metainfo's `info`.
    torrent: [u8; 32],
    holdings: Mutex<Holdings>,
    /// What was remembered last.
    saved: Mutex<Option<Remembered>>,
    /// Whether a have file was found: then what is a hole in a file was never written.
    resumed: bool,
}

#[derive(Debug)]
struct Holdings {
    /// Their hash has passed.
    held: Bitfield,
    /// Held, but a file of theirs was changed since: to be checked before anything is made of it.
    doubted: Bitfield,
    /// How complete files looked when all their pieces had passed.
    stamps: BTreeMap<u32, Stamp>,
}

impl Storage {
    /// Files of `metainfo` below `root`, and what `remembered_at` says of them: nothing is read but
    /// that. A file that looks otherwise than remembered has its pieces checked before their use.
    ///
    /// # Errors
    /// [`DiskError`] where something is in the way of a file.
    pub fn open(
        metainfo: Arc<Metainfo>,
        root: &Path,
        remembered_at: Option<PathBuf>,
        handles: Arc<Handles>,
    ) -> Result<Self, DiskError> {
        let layout = metainfo.layout();
        let specs = (0..layout.files().len()).map(|file| FileSpec {
            path: layout.path(file).iter().map(|name| name.to_string_lossy().into()).collect(),
            len: layout.files()[file].len(),
        });
        let files = Files::new(root, specs.collect(), handles)?;
        let torrent: [u8; 32] = Sha256::digest(metainfo.info_bytes()).into();
        let pieces = metainfo.geometry().pieces();
        let remembered =
            remembered_at.as_deref().and_then(|path| Remembered::load(path, torrent, pieces));
        let resumed = remembered.is_some();
        let mut held = Bitfield::none(pieces);
        let mut stamps = BTreeMap::new();
        if let Some(remembered) = remembered {
            held = Bitfield::from_bytes(&remembered.bits, pieces).unwrap_or(held);
            stamps.extend(remembered.stamps);
        }
        let holdings = Holdings { held, doubted: Bitfield::none(pieces), stamps };
        let leaf_file = remembered_at.as_deref().and_then(|path| LeafFile::beside(path, &metainfo));
        let this = Self {
            metainfo,
            files,
            parts: Parts::beside(remembered_at.as_deref(), torrent),
            remembered_at,
            leaf_file,
            torrent,
            holdings: Mutex::new(holdings),
            saved: Mutex::default(),
            resumed,
        };
        this.look_at_files()?;
        Ok(this)
    }

    /// Finds out which files are gone or look otherwise than remembered.
    fn look_at_files(&self) -> Result<(), DiskError> {
        let mut holdings = self.holdings();
        for file in 0..self.files.len() {
            if self.files.len_of(file) == 0 {
                continue;
            }
            match self.files.stamp(file) {
                Ok(stamp) => {
                    if holdings.stamps.remove(&file).is_some_and(|known| known != stamp) {
                        self.doubt(&mut holdings, file);
                    }
                    // What is written to does not stay as it is.
                    if self.is_complete(&holdings, file) {
                        holdings.stamps.insert(file, stamp);
                    }
                }
                Err(DiskError::Missing(_)) => self.lose(&mut holdings, file),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn holdings(&self) -> MutexGuard<'_, Holdings> {
        self.holdings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_complete(&self, holdings: &Holdings, file: u32) -> bool {
        let mut pieces = self.metainfo.layout().pieces(file as usize);
        pieces.all(|piece| holdings.held.has(piece))
    }

    fn doubt(&self, holdings: &mut Holdings, file: u32) {
        for piece in self.metainfo.layout().pieces(file as usize) {
            if holdings.held.has(piece) {
                holdings.doubted.insert(piece);
            }
        }
    }

    fn lose(&self, holdings: &mut Holdings, file: u32) {
        holdings.stamps.remove(&file);
        for piece in self.metainfo.layout().pieces(file as usize) {
            holdings.held.remove(piece);
            holdings.doubted.remove(piece);
        }
    }

    /// What the torrent consists of.
    pub fn metainfo(&self) -> &Arc<Metainfo> {
        &self.metainfo
    }

    /// Where a file of the torrent is, by its number there.
    pub fn path(&self, file: u32) -> PathBuf {
        self.files.path(file)
    }

    /// Which pieces are there.
    pub fn held(&self) -> Bitfield {
        self.holdings().held.clone()
    }

    /// Whether a piece is there.
    pub fn has(&self, piece: u32) -> bool {
        self.holdings().held.has(piece)
    }

    /// How many bytes of data the pieces that are there hold, and how many all of them do.
    pub fn progress(&self) -> (u64, u64) {
        let geometry = self.metainfo.geometry();
        let holdings = self.holdings();
        if holdings.held.is_all() {
            return (geometry.data_len(), geometry.data_len());
        }
        let missing = (0..geometry.pieces()).filter(|piece| !holdings.held.has(*piece));
        let missing: u64 = missing.map(|piece| u64::from(geometry.len_of(piece))).sum();
        (geometry.data_len() - missing, geometry.data_len())
    }

    /// A piece's bytes have passed its hash.
    pub fn hold(&self, piece: u32) {
        let mut holdings = self.holdings();
        holdings.held.insert(piece);
        holdings.doubted.remove(piece);
    }

    /// Writes down the leaf hashes of a piece that has passed, for those who will ask for them.
    pub(super) fn keep_leaves(&self, piece: u32, leaves: &[Hash]) {
        if let Some(file) = &self.leaf_file {
            file.keep(&self.metainfo, piece, leaves);
        }
    }

    /// The leaf hashes of a piece, where they were written down: those that its root is of.
    pub(super) fn leaves(&self, piece: u32) -> Option<Vec<Hash>> {
        self.leaf_file.as_ref()?.of(&self.metainfo, piece)
    }

    /// What was written down of a short piece, if that waits for no disk and for nobody: it is not
    /// proven yet.
    pub(super) fn leaves_at_once(&self, piece: u32) -> Option<Vec<Hash>> {
        let here = self.holdings.try_lock().is_ok_and(|holdings| holdings.held.has(piece));
        self.leaf_file.as_ref().filter(|_| here)?.at_once(&self.metainfo, piece)
    }

    /// A piece is not there any more.
    pub fn lose_piece(&self, piece: u32) {
        let mut holdings = self.holdings();
        holdings.held.remove(piece);
        holdings.doubted.remove(piece);
    }

    /// Reads `into.len()` bytes of `piece` from `begin`: the padding in it as zeros.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn read(&self, piece: u32, begin: u32, into: &mut [u8]) -> Result<(), DiskError> {
        let len = u32::try_from(into.len()).unwrap_or(u32::MAX);
        let mut rest = into;
        for extent in self.metainfo.layout().extents(piece, begin, len) {
            let (now, later) = rest.split_at_mut(extent.len as usize);
            match extent.file {
                Some(file) => self.files.read(file as u32, extent.offset, now)?,
                None => now.fill(0),
            }
            rest = later;
        }
        Ok(())
    }

    /// Whether a part of a piece stands ([`Storage::stands`]) and was read, without waiting for a
    /// disk or for anybody: only of what is in memory, and not in doubt. `false` says nothing but
    /// that it is to be found out in the ordinary way, on a blocking thread.
    pub(super) fn read_at_once(&self, piece: u32, begin: u32, into: &mut [u8]) -> bool {
        let len = u32::try_from(into.len()).unwrap_or(u32::MAX);
        let extents = self.metainfo.layout().extents(piece, begin, len);
        let known: Vec<_> = {
            // Others hold it while they ask the disk how a file looks.
            let Ok(holdings) = self.holdings.try_lock() else { return false };
            if !holdings.held.has(piece) || holdings.doubted.has(piece) {
                return false;
            }
            let stamp = |file: usize| holdings.stamps.get(&(file as u32)).copied();
            extents.clone().map(|extent| extent.file.and_then(stamp)).collect()
        };
        let mut rest = into;
        for (extent, known) in extents.zip(known) {
            let (now, later) = rest.split_at_mut(extent.len as usize);
            let read = match extent.file {
                Some(file) => self.files.read_at_once(file as u32, known, extent.offset, now),
                None => {
                    now.fill(0);
                    true
                }
            };
            if !read {
                return false;
            }
            rest = later;
        }
        true
    }

    /// Writes `parts`, one after the other, into `piece` from `begin`. Padding is left out.
    ///
    /// # Errors
    /// [`DiskError`]; part of it may have been written.
    pub fn write(&self, piece: u32, begin: u32, parts: &[&[u8]]) -> Result<(), DiskError> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let mut parts = parts.iter().copied();
        let mut part: &[u8] = &[];
        let mut slices = Vec::new();
        for extent in self.metainfo.layout().extents(piece, begin, len) {
            slices.clear();
            let mut wanted = extent.len as usize;
            while wanted > 0 {
                if part.is_empty() {
                    let Some(next) = parts.next() else { break };
                    part = next;
                }
                let (now, later) = part.split_at(part.len().min(wanted));
                slices.push(IoSlice::new(now));
                wanted -= now.len();
                part = later;
            }
            if let Some(file) = extent.file {
                // What is written to does not stay as it was.
                self.holdings().stamps.remove(&(file as u32));
                self.files.write(file as u32, extent.offset, &mut slices)?;
            }
        }
        Ok(())
    }

    /// Whether the bytes of a piece are good as they are on disk now.
    ///
    /// # Errors
    /// [`DiskError`], apart from files that are missing or too short: then it is not good.
    pub fn check(&self, piece: u32) -> Result<bool, DiskError> {
        let len = self.metainfo.geometry().len_of(piece);
        let Some(check) = self.metainfo.check(piece) else { return Ok(false) };
        let mut hasher = check.hasher();
        let mut buffer = vec![0; CHECK_LEN.min(len) as usize];
        let mut begin = 0;
        while begin < len {
            let now = &mut buffer[..CHECK_LEN.min(len - begin) as usize];
            match self.read(piece, begin, now) {
                Ok(()) => hasher.update(now),
                Err(DiskError::Missing(_) | DiskError::EndsEarly(_)) => return Ok(false),
                Err(error) => return Err(error),
            }
            begin += CHECK_LEN;
        }
        let leaves = hasher.finish();
        if let Some(leaves) = &leaves {
            self.keep_leaves(piece, leaves);
        }
        Ok(leaves.is_some())
    }

    /// Whether a part of a piece may be served: it is there, and its files are as they were when it
    /// was checked. If not, it is checked again.
    ///
    /// # Errors
    /// [`DiskError`] where the disk cannot say.
    pub fn stands(&self, piece: u32, begin: u32, len: u32) -> Result<Standing, DiskError> {
        let mut holdings = self.holdings();
        if !holdings.held.has(piece) {
            return Ok(Standing::Absent);
        }
        for extent in self.metainfo.layout().extents(piece, begin, len) {
            let Some(file) = extent.file.map(|file| file as u32) else { continue };
            let Some(known) = holdings.stamps.get(&file).copied() else { continue };
            match self.files.stamp(file) {
                Ok(stamp) if stamp == known => {}
                Ok(stamp) => {
                    holdings.stamps.insert(file, stamp);
                    self.doubt(&mut holdings, file);
                }
                Err(DiskError::Missing(_)) => {
                    self.lose(&mut holdings, file);
                    return Ok(Standing::Spoilt);
                }
                Err(error) => return Err(error),
            }
        }
        if !holdings.doubted.has(piece) {
            return Ok(Standing::Good);
        }
        drop(holdings); // others are served meanwhile
        let good = self.check(piece)?;
        if good {
            self.holdings().doubted.remove(piece);
            return Ok(Standing::Good);
        }
        self.lose_piece(piece);
        Ok(Standing::Spoilt)
    }

    /// Whether its files look as they did when part of a piece was found to stand: what was read since
    /// then is what was checked.
    pub fn still_stands(&self, piece: u32, begin: u32, len: u32) -> bool {
        let holdings = self.holdings();
        let mut files = self.metainfo.layout().extents(piece, begin, len).filter_map(|it| it.file);
        files.all(|file| {
            let known = holdings.stamps.get(&(file as u32)).copied();
            known.is_none_or(|known| self.files.stamp(file as u32) == Ok(known))
        })
    }

    /// Looks for pieces that are on disk although nothing says so: after a crash, those of the last
    /// seconds; without a have file, all whose files are there. `each` is told of every piece that
    /// is looked at, and whether it was good; it says whether to go on.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn look_for_more(&self, mut each: impl FnMut(u32, bool) -> bool) -> Result<(), DiskError> {
        let layout = self.metainfo.layout();
        // Asked once for each file, not once for each piece of it.
        let mut there = BTreeMap::new();
        for piece in 0..self.metainfo.geometry().pieces() {
            let doubted = {
                let holdings = self.holdings();
                if holdings.held.has(piece) && !holdings.doubted.has(piece) {
                    continue;
                }
                holdings.doubted.has(piece)
            };
            let len = self.metainfo.geometry().len_of(piece);
            let mut extents = layout.extents(piece, 0, len);
            let all = extents.clone().filter_map(|extent| extent.file).all(|file| {
                there.entry(file).or_insert_with(|| self.files.stamp(file as u32).ok()).is_some()
            });
            // One that is a hole throughout was never written.
            let hole = self.resumed
                && !doubted
                && extents.all(|extent| {
                    let Some(file) = extent.file else { return true };
                    !self.files.has_data(file as u32, extent.offset, u64::from(extent.len))
                });
            let good = all && !hole && self.check(piece)?;
            if good {
                self.hold(piece);
            } else if doubted {
                self.lose_piece(piece);
            }
            if !each(piece, good) {
                return Ok(());
            }
        }
        // As they were before they were looked at: what was changed meanwhile is seen.
        let mut holdings = self.holdings();
        for (file, stamp) in there {
            if let Some(stamp) = stamp.filter(|_| self.is_complete(&holdings, file as u32)) {
                holdings.stamps.entry(file as u32).or_insert(stamp);
            }
        }
        Ok(())
    }

    /// Part of a piece that was there cannot be read: its files are not what they were.
    pub(super) fn doubt_around(&self, piece: u32, begin: u32, len: u32) {
        let mut holdings = self.holdings();
        for extent in self.metainfo.layout().extents(piece, begin, len) {
            if let Some(file) = extent.file {
                self.doubt(&mut holdings, file as u32);
            }
        }
    }

    /// Looks at what is in doubt, as long as it `goes_on`.
    ///
    /// # Errors
    /// [`DiskError`].
    pub(super) fn check_doubted(&self, goes_on: impl Fn() -> bool) -> Result<(), DiskError> {
        let doubted = self.holdings().doubted.clone();
        for piece in doubted.iter().take_while(|_| goes_on()) {
            if self.check(piece)? {
                self.hold(piece);
            } else {
                self.lose_piece(piece);
            }
        }
        Ok(())
    }

    /// What is remembered of pieces that are not whole.
    pub(super) fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Whether any byte of a block may ever have been written.
    pub(super) fn has_data(&self, block: Block) -> bool {
        let mut extents = self.metainfo.layout().extents(block.piece, block.begin, block.len);
        extents.any(|extent| {
            extent.file.is_some_and(|file| {
                self.files.has_data(file as u32, extent.offset, u64::from(extent.len))
            })
        })
    }

    /// All data is there: makes the files that hold none, and sees whether the others still are where
    /// they belong.
    ///
    /// # Errors
    /// [`DiskError`]; [`DiskError::Missing`] where a file was removed meanwhile. Its pieces are not
    /// there then.
    pub fn finish(&self) -> Result<(), DiskError> {
        self.files.create_empty()?;
        for file in (0..self.files.len()).filter(|file| self.files.len_of(*file) > 0) {
            match self.files.stamp(file) {
                // It is written to no more.
                Ok(stamp) => {
                    self.holdings().stamps.entry(file).or_insert(stamp);
                }
                Err(error) => {
                    if matches!(error, DiskError::Missing(_)) {
                        self.lose(&mut self.holdings(), file);
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Makes durable what is held, and the blocks that were `written` of pieces that are not whole, then
    /// remembers both. A crash at any time leaves what was remembered before, or this. One at a time.
    ///
    /// With the `last`, when nothing is written any more, it is remembered too how files look that are
    /// not complete: what is changed in them until the next start is found. After a crash it is not,
    /// or all of them would be checked for what we wrote ourselves.
    ///
    /// # Errors
    /// [`DiskError`]; nothing that was remembered is lost.
    pub fn save(&self, written: Vec<(u32, Bitfield)>, last: bool) -> Result<(), DiskError> {
        let mut before = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let held = {
            let holdings = self.holdings();
            let mut held = holdings.held.clone();
            // What is in doubt is not said again before it was checked.
            for piece in 0..held.pieces() {
                if holdings.doubted.has(piece) {
                    held.remove(piece);
                }
            }
            held
        };
        // First the data: what is said to be there must be there after a power cut.
        self.files.sync()?;
        let stamps = self.stamp_files(&held, last)?;
        let (torrent, pieces) = (self.torrent, held.pieces());
        let now = Remembered { torrent, pieces, bits: held.to_bytes(), stamps };
        if let Some(path) = self.remembered_at.as_ref().filter(|_| before.as_ref() != Some(&now)) {
            now.save(path)?;
            *before = Some(now);
        }
        self.parts.save(&held, written)
    }

    /// How complete files look, and, with the `last`, others of which anything is held. Complete ones are
    /// not written to any more: how they look now, or looked as they were checked, is how they stay, or
    /// they were changed.
    fn stamp_files(&self, held: &Bitfield, last: bool) -> Result<Vec<(u32, Stamp)>, DiskError> {
        let layout = self.metainfo.layout();
        let mut stamps = Vec::new();
        for file in (0..self.files.len()).filter(|file| self.files.len_of(*file) > 0) {
            let complete = layout.pieces(file as usize).all(|piece| held.has(piece));
            let begun = last && layout.pieces(file as usize).any(|piece| held.has(piece));
            if !complete && !begun {
                continue;
            }
            let known = self.holdings().stamps.get(&file).copied();
            let stamp = match known {
                Some(stamp) => stamp,
                None => self.files.stamp(file)?,
            };
            if complete {
                self.holdings().stamps.insert(file, stamp);
            }
            stamps.push((file, stamp));
        }
        Ok(stamps)
    }

    /// Whether all of a block, which [`Storage::is_block`], is data: that alone is sold.
    pub fn is_data(&self, block: Block) -> bool {
        let geometry = self.metainfo.geometry();
        let end = block.begin.checked_add(block.len);
        block.piece < geometry.pieces()
            && end.is_some_and(|end| end <= geometry.len_of(block.piece))
    }

    /// Whether a peer may ask for a block. Of a hybrid torrent, who knows only its v1 half asks for
    /// the padding between files too, which is not data by [`sparewire_content::Geometry`].
    pub fn is_block(&self, block: Block) -> bool {
        let piece_len = self.metainfo.geometry().piece_len();
        let end = block.begin.checked_add(block.len).filter(|end| *end <= piece_len);
        block.piece < self.metainfo.geometry().pieces()
            && (1..=sparewire_content::BLOCK_LEN).contains(&block.len)
            && end.is_some_and(|end| {
                let begin = u64::from(block.piece) * u64::from(piece_len);
                begin + u64::from(end) <= self.metainfo.layout().end()
            })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use sparewire_content::{Builder, Format};

    use super::*;

    const PIECE: usize = 64 << 10;

    /// Two files, of three pieces and of one and a bit, and their bytes.
    fn content(format: Format) -> (Metainfo, [Vec<u8>; 2]) {
        let data =
            [3 * PIECE - 5, PIECE + 9].map(|len| (0..len).map(|at| (at / 99) as u8).collect());
        let [a, b]: &[Vec<u8>; 2] = &data;
        let files =
            vec![(vec!["a".to_owned()], a.len() as u64), (vec!["b".to_owned()], b.len() as u64)];
        let builder = Builder::folder("t", files).unwrap().format(format);
        let mut builder = builder.piece_len(PIECE as u32).unwrap();
        while let Some((file, left)) = builder.wanted() {
            builder.update(&data[file][data[file].len() - left as usize..]).unwrap();
        }
        (builder.finish().unwrap(), data)
    }

    fn open(metainfo: &Metainfo, root: &Path) -> Storage {
        let remembered_at = Some(root.join("t.have"));
        Storage::open(Arc::new(metainfo.clone()), root, remembered_at, Arc::default()).unwrap()
    }

    /// On disk, looked at, and saved.
    fn complete(format: Format, root: &Path) -> Metainfo {
        let (metainfo, data) = content(format);
        std::fs::create_dir(root.join("t")).unwrap();
        std::fs::write(root.join("t/a"), &data[0]).unwrap();
        std::fs::write(root.join("t/b"), &data[1]).unwrap();
        let storage = open(&metainfo, root);
        assert_eq!(storage.held().count(), 0);
        storage.look_for_more(|_, good| good).unwrap();
        assert!(storage.held().is_all());
        storage.save(Vec::new(), true).unwrap();
        metainfo
    }

    fn standing(storage: &Storage, piece: u32) -> Standing {
        storage.stands(piece, 0, 1000).unwrap()
    }

    #[test]
    fn what_was_saved_is_believed_without_another_look() {
        let root = tempfile::tempdir().unwrap();
        let metainfo = complete(Format::V1, root.path());
        let storage = open(&metainfo, root.path());
        assert!(storage.held().is_all());
        storage.look_for_more(|piece, _| panic!("{piece} was looked at")).unwrap();
        assert_eq!(standing(&storage, 0), Standing::Good);
    }

    #[test]
    fn what_looks_otherwise_is_checked_before_it_is_served() {
        for again in [false, true] {
            let root = tempfile::tempdir().unwrap();
            let metainfo = complete(Format::V2, root.path());
            let mut storage = open(&metainfo, root.path());
            let path = root.path().join("t/a");
            let mut data = std::fs::read(&path).unwrap();
            data[PIECE + 1] ^= 1;
            std::fs::write(&path, &data).unwrap();
            if again {
                storage = open(&metainfo, root.path()); // while nobody looked
            }
            assert_eq!(standing(&storage, 0), Standing::Good);
            assert_eq!(standing(&storage, 1), Standing::Spoilt);
            assert_eq!(standing(&storage, 1), Standing::Absent);
            assert_eq!(standing(&storage, 2), Standing::Good);
            assert_eq!(standing(&storage, 3), Standing::Good, "of the other file");
            storage.save(Vec::new(), true).unwrap();
            assert_eq!(open(&metainfo, root.path()).held().count(), 4);
        }
    }

    #[test]
    fn what_is_changed_of_a_file_that_is_not_complete_is_checked_too() {
        let root = tempfile::tempdir().unwrap();
        let metainfo = complete(Format::V2, root.path());
        let storage = open(&metainfo, root.path());
        storage.lose_piece(1);
        storage.save(Vec::new(), false).unwrap();
        for last in [false, true] {
            // After a crash it is not taken for changed because we wrote to it.
            let storage = open(&metainfo, root.path());
            let looked = |piece, _| piece == 1 || panic!("{piece} was looked at");
            storage.look_for_more(looked).unwrap();
            storage.write(1, 0, &[&[7; 100]]).unwrap();
            storage.lose_piece(1);
            storage.save(Vec::new(), last).unwrap();
        }
        let path = root.path().join("t/a");
        let mut data = std::fs::read(&path).unwrap();
        data[7] ^= 1; // in the first piece, while nothing runs
        std::fs::write(&path, &data).unwrap();
        let storage = open(&metainfo, root.path());
        assert_eq!(standing(&storage, 0), Standing::Spoilt);
        assert_eq!(standing(&storage, 2), Standing::Good);
    }

    #[test]
    fn what_is_changed_while_it_is_looked_at_is_not_served() {
        let root = tempfile::tempdir().unwrap();
        let (metainfo, data) = content(Format::V2);
        std::fs::create_dir(root.path().join("t")).unwrap();
        let path = root.path().join("t/a");
        std::fs::write(&path, &data[0]).unwrap();
        std::fs::write(root.path().join("t/b"), &data[1]).unwrap();
        let storage = open(&metainfo, root.path());
        let change = |piece, _| {
            if piece == 0 {
                let mut data = data[0].clone();
                data[7] ^= 1;
                std::fs::write(&path, &data).unwrap();
            }
            true
        };
        storage.look_for_more(change).unwrap();
        assert!(storage.held().is_all());
        assert_eq!(standing(&storage, 0), Standing::Spoilt);
        assert_eq!(standing(&storage, 1), Standing::Good);
    }

    #[test]
    fn what_is_read_while_its_file_is_written_to_stands_no_more() {
        let root = tempfile::tempdir().unwrap();
        let metainfo = complete(Format::V2, root.path());
        let storage = open(&metainfo, root.path());
        assert_eq!(standing(&storage, 0), Standing::Good);
        assert!(storage.still_stands(0, 0, 1000));
        let path = root.path().join("t/a");
        std::fs::write(&path, vec![0; std::fs::read(&path).unwrap().len()]).unwrap();
        assert!(!storage.still_stands(0, 0, 1000));
        assert!(storage.still_stands(3, 0, 1000), "of the other file");
    }

    #[test]
    fn what_was_changed_or_is_not_there_is_never_read_at_once() {
        let root = tempfile::tempdir().unwrap();
        let metainfo = complete(Format::V1, root.path());
        let storage = open(&metainfo, root.path());
        let path = root.path().join("t/a");
        let data = std::fs::read(&path).unwrap();
        let at_once = |piece| {
            let mut read = vec![9; 1000];
            storage.read_at_once(piece, 7, &mut read).then_some(read)
        };
        assert_eq!(standing(&storage, 0), Standing::Good);
        // Not all file systems can say what is in memory.
        let read = at_once(0);
        assert!(read.is_none() || read.as_deref() == Some(&data[7..1007]));
        storage.lose_piece(1);
        assert_eq!(at_once(1), None);
        std::fs::write(&path, &data[1..]).unwrap();
        assert_eq!(at_once(0), None, "it looks otherwise");
        assert_eq!(standing(&storage, 0), Standing::Spoilt);
        assert_eq!(at_once(2), None, "it is in doubt");
    }

    #[test]
    fn leaves_of_what_has_passed_are_there_without_its_data() {
        for format in [Format::V1, Format::V2, Format::Hybrid] {
            let root = tempfile::tempdir().unwrap();
            let metainfo = complete(format, root.path());
            std::fs::remove_dir_all(root.path().join("t")).unwrap();
            let storage = open(&metainfo, root.path());
            for piece in 0..metainfo.geometry().pieces() {
                // The last has one block, so that its leaf is its root.
                let expected = format != Format::V1 && metainfo.geometry().blocks_of(piece) > 1;
                assert_eq!(storage.leaves(piece).is_some(), expected, "{format:?} {piece}");
            }
        }
    }

    #[test]
    fn what_is_gone_is_not_there() {
        let root = tempfile::tempdir().unwrap();
        let metainfo = complete(Format::V1, root.path());
        let storage = open(&metainfo, root.path());
        std::fs::remove_file(root.path().join("t/b")).unwrap();
        assert_eq!(standing(&storage, 0), Standing::Good);
        assert_eq!(standing(&storage, 4), Standing::Spoilt);
        // In v1 the third piece has bytes of both.
        assert_eq!(storage.held().iter().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(open(&metainfo, root.path()).held().count(), 2);
    }

    #[test]
    fn a_copy_is_good_where_it_is_what_is_there() {
        use crate::content::{copies::Copies, intake::Outcome};

        let root = tempfile::tempdir().unwrap();
        let metainfo = complete(Format::V1, root.path());
        let storage = open(&metainfo, root.path());
        let copies = Copies::default();
        let block = metainfo.geometry().block(1, 0).unwrap();
        let mut data = vec![0; block.len as usize];
        storage.read(1, 0, &mut data).unwrap();
        assert!(copies.keep(3, block, &data));
        data[9] ^= 1;
        assert!(copies.keep(4, block, &data));
        assert!(copies.keep(5, block, &data));
        copies.left(5);
        assert!(copies.of(0).is_empty());
        let judged: Vec<_> =
            copies.of(1).into_iter().map(|copy| copy.judge(&storage).unwrap()).collect();
        let of = |from, good| Outcome::Copy { from, block, good };
        assert_eq!(judged, [of(3, true), of(4, false)]);
        // No more wait than are ever paid for.
        let kept = (0..100).filter(|_| copies.keep(3, block, &data)).count();
        assert_eq!(kept, sparewire_content::PAID_TWICE_MAX as usize);
    }

    #[test]
    fn padding_is_read_as_zeros_and_written_nowhere() {
        let root = tempfile::tempdir().unwrap();
        let (metainfo, data) = content(Format::Hybrid);
        let storage = open(&metainfo, root.path());
        let last = [&data[0][2 * PIECE..], &[1; 5]].concat();
        storage.write(2, 0, &[&last[..100], &last[100..]]).unwrap();
        assert_eq!(
            std::fs::read(root.path().join("t/a")).unwrap()[2 * PIECE..],
            data[0][2 * PIECE..]
        );
        assert!(!root.path().join("t/b").exists());
        let mut read = vec![9; PIECE];
        storage.read(2, 0, &mut read).unwrap();
        assert_eq!(read, [&data[0][2 * PIECE..], &[0; 5]].concat());
        let padded = Block { piece: 2, begin: PIECE as u32 - 16384, len: 16384 };
        assert!(storage.is_block(padded));
        assert!(!storage.is_data(padded), "its last five bytes are not for sale");
        assert!(storage.is_data(Block { len: 16384 - 5, ..padded }));
        for (piece, begin, len) in [(2, PIECE as u32 - 1, 2), (5, 0, 1), (0, 0, 16385), (0, 0, 0)] {
            assert!(!storage.is_block(Block { piece, begin, len }), "{piece} {begin} {len}");
        }
        assert!(!storage.is_block(Block { piece: 0, begin: u32::MAX, len: 16384 }));
    }
}
