//! TLS for both legs: what clients are offered ([`Acceptor`]), how the server is reached
//! ([`Dialer`]), and the channel binding of a certificate. Knows no protocol but TLS, and no config
//! file; `ring` is the one provider of cryptography in the process.
//!
//! Invariant: no private key is shown, in errors or in `Debug`.

mod accept;
mod dial;
mod end_point;
mod pem;

pub use accept::{Acceptor, ClientCertificates, Encryption};
pub use dial::{Dialer, Mode, Negotiation, Roots, Settings};
pub use end_point::end_point;
pub use pem::{Certificates, Identity, Key};

use rustls::crypto::{CryptoProvider, ring};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

/// The protocol that TLS carries (ALPN), as Postgres 17 names it.
const ALPN: &[u8] = b"postgresql";

static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(ring::default_provider()));

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not there, or is not ours to read.
    #[error("cannot read the file {path}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It is not PEM.
    #[error("the file {path} is not PEM")]
    NotPem {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// It has other things in it.
    #[error("the file {path} has no {what} in it")]
    Empty {
        /// Which file.
        path: PathBuf,
        /// What it should have.
        what: &'static str,
    },
    /// The certificates of this machine.
    #[error("the certificate authorities of this system cannot be read: {0}")]
    System(String),
    /// Certificate and key do not fit, or are of a kind that is not supported.
    #[error("the certificate cannot be used with this key")]
    Identity(#[source] rustls::Error),
    /// The certificate authorities.
    #[error("the certificate authorities cannot be used")]
    Roots(#[source] rustls::server::VerifierBuilderError),
    /// Not met with the provider in use.
    #[error("TLS cannot be set up")]
    Rustls(#[from] rustls::Error),
}

/// Whether two things were made of the same files and settings.
type Fingerprint = [u8; 32];

/// Hashes parts so that no two lists of parts give the same bytes.
fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Fingerprint {
    use sha2::Digest as _;
    let mut hash = sha2::Sha256::new();
    for part in parts {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
