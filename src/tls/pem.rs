//! Certificates and keys from PEM files.

use super::Error;
use rustls::RootCertStore;
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use std::path::Path;

/// At least one certificate.
#[derive(Debug, Clone)]
pub struct Certificates(pub(super) Vec<CertificateDer<'static>>);

/// A private key.
pub struct Key(pub(super) PrivateKeyDer<'static>);

/// A certificate with what it was signed by, and its key.
#[derive(Debug)]
pub struct Identity {
    /// The own certificate first.
    pub certificates: Certificates,
    /// The key of the first one.
    pub key: Key,
}

impl Certificates {
    /// Reads all certificates of a file.
    ///
    /// # Errors
    /// When there is none, or the file cannot be read.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = read(path)?;
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let all = all.map_err(|source| Error::NotPem { path: path.to_owned(), source })?;
        if all.is_empty() {
            return Err(Error::Empty { path: path.to_owned(), what: "certificate" });
        }
        Ok(Self(all))
    }

    pub(super) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        // What is not understood vouches for nobody; an empty store is refused later.
        let _counts = roots.add_parsable_certificates(self.0.iter().cloned());
        roots
    }

    pub(super) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(AsRef::as_ref)
    }
}

impl Key {
    /// Reads the first key of a file: PKCS #8, PKCS #1 or SEC 1, not encrypted.
    ///
    /// # Errors
    /// When there is none, or the file cannot be read.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = read(path)?;
        match PrivateKeyDer::from_pem_slice(&text) {
            Ok(key) => Ok(Self(key)),
            Err(PemError::NoItemsFound) => {
                let what = "private key (without a passphrase)";
                Err(Error::Empty { path: path.to_owned(), what })
            }
            Err(source) => Err(Error::NotPem { path: path.to_owned(), source }),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(_)")
    }
}

impl Clone for Key {
    fn clone(&self) -> Self {
        Self(self.0.clone_key())
    }
}

impl Identity {
    pub(super) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.certificates.parts().chain(std::iter::once(self.key.0.secret_der()))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })
}
