//! Files of any length under a password: every byte is authenticated, and so is the end.
//!
//! ```text
//! "sparewire backup\n"  version  log2(n) r p  salt        chunks
//!  17 bytes             1        1 each       32 bytes    65,536 bytes (the last: fewer) + 16 each
//! ```
//!
//! The key is what scrypt (n, r, p) makes of password and salt. Each chunk is sealed with
//! AES-256-GCM; its nonce is its number (11 bytes, big endian) and whether it is the last one (STREAM,
//! Hoang, Reyhanitabar, Rogaway and Vizár 2015), which is safe because each file has a key of its own.
//! All that precedes the chunks is authenticated with each of them.

use std::io::{self, Read, Write};

use aes_gcm::{Aes256Gcm, KeyInit, Nonce, Tag, aead::AeadInPlace};
use zeroize::Zeroizing;

use crate::{
    Cost, KeystoreError,
    password::{Kdf, PasswordKey},
};

const MAGIC: &[u8; 17] = b"sparewire backup\n";
const VERSION: u8 = 1;
const SALT_LEN: usize = 32;
const HEADER_LEN: usize = MAGIC.len() + 4 + SALT_LEN;
/// Length of every chunk but the last, in bytes, its tag not counted.
const CHUNK_LEN: usize = 64 << 10;
const TAG_LEN: usize = 16;

/// Why a sealed file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SealedError {
    /// It is something else.
    #[error("this is not a sparewire backup")]
    NotSealed,
    /// A newer release wrote it.
    #[error(
        "this backup has format version {found}, this sparewire reads version {known}; use a newer release"
    )]
    Version {
        /// Its version.
        found: u8,
        /// Ours.
        known: u8,
    },
    /// Nothing of it opens.
    #[error("the password is wrong, or the beginning of the backup was altered or cut off")]
    WrongPassword,
    /// It opened, but not to its end.
    #[error("the backup was altered or damaged after its first {intact} bytes; take another copy")]
    Altered {
        /// Bytes of content that are in order.
        intact: u64,
    },
    /// Its end is missing.
    #[error(
        "the backup is cut off, or its end was altered, after {intact} bytes; take another copy"
    )]
    Truncated {
        /// Bytes of content that are in order.
        intact: u64,
    },
    /// Its password cannot be stretched.
    #[error(transparent)]
    Password(#[from] KeystoreError),
    /// The disk fails.
    #[error("{0}")]
    Io(io::Error),
}

impl From<SealedError> for io::Error {
    fn from(error: SealedError) -> Self {
        match error {
            SealedError::Io(error) => error,
            other => Self::new(io::ErrorKind::InvalidData, other),
        }
    }
}

/// Seals what is written to it.
pub struct Sealer<W: Write> {
    to: W,
    chunks: Chunks,
    buffer: Vec<u8>,
}

impl<W: Write> Sealer<W> {
    /// Begins a sealed file.
    ///
    /// # Errors
    /// [`SealedError`] for an empty password, and where nothing can be written.
    pub fn new(mut to: W, password: &str, cost: Cost) -> Result<Self, SealedError> {
        let mut salt = [0; SALT_LEN];
        getrandom::fill(&mut salt).map_err(KeystoreError::from)?;
        let (log_n, r, p) = (cost.log_n, 8, 1);
        let mut header = MAGIC.to_vec();
        header.extend([VERSION, log_n, r, p]);
        header.extend(salt);
        let chunks = Chunks::new(password, header)?;
        to.write_all(&chunks.header).map_err(SealedError::Io)?;
        Ok(Self { to, chunks, buffer: Vec::with_capacity(CHUNK_LEN + TAG_LEN) })
    }

    /// Writes the end, without which the file is not whole, and gives back what it was written to.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.seal(true)?;
        Ok(self.to)
    }

    fn seal(&mut self, last: bool) -> io::Result<()> {
        let nonce = self.chunks.next(last);
        let tag = self
            .chunks
            .cipher
            .encrypt_in_place_detached(&nonce, &self.chunks.header, &mut self.buffer)
            .map_err(|_| io::Error::other("a chunk is too long"))?;
        self.buffer.extend_from_slice(&tag);
        self.to.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

impl<W: Write> Write for Sealer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full chunk waits for more: the last one must be known as such.
        if self.buffer.len() == CHUNK_LEN && !bytes.is_empty() {
            self.seal(false)?;
        }
        let taken = bytes.len().min(CHUNK_LEN - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // half a chunk cannot be written
    }
}

/// Reads what was sealed; each byte that it gives is authenticated. Only an end that was read says
/// that nothing is missing.
pub struct Unsealer<R: Read> {
    from: R,
    chunks: Chunks,
    /// The chunk that is being read, and how far.
    open: Zeroizing<Vec<u8>>,
    at: usize,
    intact: u64,
    ended: bool,
}

impl<R: Read> Unsealer<R> {
    /// Opens a sealed file and its first chunk.
    ///
    /// # Errors
    /// [`SealedError`] where it is something else, of a newer version, or not under this password.
    pub fn new(mut from: R, password: &str) -> Result<Self, SealedError> {
        let header = fill(&mut from, HEADER_LEN).map_err(SealedError::Io)?;
        let known = header.len().min(MAGIC.len());
        if header[..known] != MAGIC[..known] || header.is_empty() {
            return Err(SealedError::NotSealed);
        }
        match header.get(MAGIC.len()) {
            Some(&VERSION) => {}
            Some(&found) => return Err(SealedError::Version { found, known: VERSION }),
            None => return Err(SealedError::Truncated { intact: 0 }),
        }
        if header.len() < HEADER_LEN {
            return Err(SealedError::Truncated { intact: 0 });
        }
        let chunks = Chunks::new(password, header)?;
        let open = Zeroizing::new(Vec::new());
        let mut file = Self { from, chunks, open, at: 0, intact: 0, ended: false };
        file.unseal()?;
        Ok(file)
    }

    fn unseal(&mut self) -> Result<(), SealedError> {
        let intact = self.intact;
        let mut chunk = fill(&mut self.from, CHUNK_LEN + TAG_LEN).map_err(SealedError::Io)?;
        let last = chunk.len() < CHUNK_LEN + TAG_LEN;
        let Some(length) = chunk.len().checked_sub(TAG_LEN) else {
            return Err(SealedError::Truncated { intact });
        };
        let tag = Tag::clone_from_slice(&chunk.split_off(length));
        let open = |last, chunk: &mut Vec<u8>| {
            let nonce = self.chunks.nonce(last);
            let (cipher, header) = (&self.chunks.cipher, &self.chunks.header);
            cipher.decrypt_in_place_detached(&nonce, header, chunk, &tag).is_ok()
        };
        // A last chunk may be full. What does not open stays as it was: its tag is checked first.
        let ended = last || !open(false, &mut chunk);
        if ended && !open(true, &mut chunk) {
            return Err(match self.chunks.number {
                0 => SealedError::WrongPassword,
                _ if last => SealedError::Truncated { intact },
                _ => SealedError::Altered { intact },
            });
        }
        if ended && !fill(&mut self.from, 1).map_err(SealedError::Io)?.is_empty() {
            return Err(SealedError::Altered { intact });
        }
        self.chunks.number += 1;
        self.intact += chunk.len() as u64;
        (self.open, self.at, self.ended) = (Zeroizing::new(chunk), 0, ended);
        Ok(())
    }
}

impl<R: Read> Read for Unsealer<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.at == self.open.len() {
            if self.ended {
                return Ok(0);
            }
            self.unseal()?;
        }
        let taken = to.len().min(self.open.len() - self.at);
        to[..taken].copy_from_slice(&self.open[self.at..self.at + taken]);
        self.at += taken;
        Ok(taken)
    }
}

/// What seals and opens chunks, and the number of the next one.
struct Chunks {
    cipher: Aes256Gcm,
    header: Vec<u8>,
    number: u64,
}

impl Chunks {
    /// The header says how the password is stretched, within the bounds of keystores.
    fn new(password: &str, header: Vec<u8>) -> Result<Self, SealedError> {
        let at = MAGIC.len() + 1;
        let (log_n, r, p) = (header[at], header[at + 1], header[at + 2]);
        let n = 1_u64.checked_shl(log_n.into()).unwrap_or(u64::MAX);
        let kdf = Kdf::scrypt(n, r.into(), p.into(), header[at + 3..].to_vec())?;
        if password.is_empty() {
            return Err(KeystoreError::EmptyPassword.into());
        }
        let key = PasswordKey::derive(&kdf, password)?;
        Ok(Self { cipher: Aes256Gcm::new(key.bytes().into()), header, number: 0 })
    }

    fn nonce(&self, last: bool) -> Nonce<aes_gcm::aead::consts::U12> {
        let mut nonce = [0; 12];
        nonce[3..11].copy_from_slice(&self.number.to_be_bytes());
        nonce[11] = u8::from(last);
        nonce.into()
    }

    fn next(&mut self, last: bool) -> Nonce<aes_gcm::aead::consts::U12> {
        let nonce = self.nonce(last);
        self.number += 1;
        nonce
    }
}

/// Reads so many bytes, or fewer where there are no more.
fn fill(from: &mut impl Read, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length);
    from.take(length as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn seal(content: &[u8]) -> Vec<u8> {
        let mut sealer = Sealer::new(Vec::new(), "correct horse", Cost::INSECURE).unwrap();
        sealer.write_all(content).unwrap();
        sealer.finish().unwrap()
    }

    fn unseal(sealed: &[u8], password: &str) -> Result<Vec<u8>, String> {
        let mut content = Vec::new();
        let mut file = Unsealer::new(sealed, password).map_err(|error| error.to_string())?;
        file.read_to_end(&mut content).map_err(|error| error.to_string())?;
        Ok(content)
    }

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|index| (index % 251) as u8).collect()
    }

    #[test]
    fn what_was_sealed_is_read_back_whatever_its_length() {
        for length in [0, 1, CHUNK_LEN - 1, CHUNK_LEN, CHUNK_LEN + 1, 3 * CHUNK_LEN, 200_000] {
            let content = content(length);
            let sealed = seal(&content);
            assert_eq!(unseal(&sealed, "correct horse").unwrap(), content, "{length}");
            let chunks = length.div_ceil(CHUNK_LEN).max(1);
            assert_eq!(sealed.len(), HEADER_LEN + length + chunks * TAG_LEN);
        }
    }

    #[test]
    fn a_file_that_is_cut_off_anywhere_is_not_taken_for_whole() {
        let sealed = seal(&content(2 * CHUNK_LEN));
        let ends = (0..HEADER_LEN + 40).chain((HEADER_LEN + 40..sealed.len()).step_by(997));
        for end in ends.chain([HEADER_LEN + CHUNK_LEN + TAG_LEN, sealed.len() - 1]) {
            let error = unseal(&sealed[..end], "correct horse").unwrap_err();
            let said = ["cut off", "not a sparewire backup", "the password is wrong"];
            assert!(said.iter().any(|words| error.contains(words)), "{end}: {error}");
        }
        // At the border of two chunks only the missing mark of the last one tells.
        let border = HEADER_LEN + CHUNK_LEN + TAG_LEN;
        assert!(unseal(&sealed[..border], "correct horse").unwrap_err().contains("cut off"));
        let longer = [&sealed[..], &[0]].concat();
        assert!(unseal(&longer, "correct horse").is_err(), "nor is a longer one");
    }

    #[test]
    fn no_bit_can_be_changed_unnoticed() {
        let sealed = seal(&content(CHUNK_LEN + 100));
        let places = (0..HEADER_LEN + 40).chain((HEADER_LEN + 40..sealed.len()).step_by(1_009));
        for place in places.chain([sealed.len() - 1]) {
            let mut altered = sealed.clone();
            altered[place] ^= 1;
            assert!(unseal(&altered, "correct horse").is_err(), "byte {place}");
        }
        let chunk = CHUNK_LEN + TAG_LEN;
        let three = seal(&content(3 * CHUNK_LEN));
        let mut swapped = three.clone();
        swapped[HEADER_LEN..HEADER_LEN + chunk]
            .copy_from_slice(&three[HEADER_LEN + chunk..][..chunk]);
        assert!(unseal(&swapped, "correct horse").is_err(), "chunks have their places");
    }

    #[test]
    fn a_wrong_password_a_newer_version_and_an_absurd_cost_are_told_apart() {
        let sealed = seal(b"words");
        let said = |sealed: &[u8], password: &str| unseal(sealed, password).unwrap_err();
        assert!(said(&sealed, "wrong").contains("the password is wrong"));
        assert!(said(&sealed, "").contains("password"));
        let mut newer = sealed.clone();
        newer[MAGIC.len()] = 2;
        assert!(said(&newer, "correct horse").contains("format version 2"));
        let mut dear = sealed;
        dear[MAGIC.len() + 1] = 40;
        assert!(said(&dear, "correct horse").contains("scrypt"), "not tried");
        assert!(said(b"PK\x03\x04", "correct horse").contains("not a sparewire backup"));
        assert!(Sealer::new(Vec::new(), "", Cost::INSECURE).is_err());
    }
}
