//! What clients are offered.

use super::{ALPN, Certificates, Error, Fingerprint, Identity, PROVIDER, end_point, fingerprint};
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use std::fmt;
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// Whether clients may do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// They may.
    Allowed,
    /// A session over TCP is encrypted or refused.
    Required,
}

/// Whether clients show a certificate.
#[derive(Debug, Clone)]
pub enum ClientCertificates {
    /// They are not asked for one.
    None,
    /// One that is shown must be signed by one of these.
    Optional(Certificates),
    /// One must be shown, and signed by one of these.
    Required(Certificates),
}

/// What clients are offered. Equal when made of the same files and settings.
#[derive(Clone)]
pub struct Acceptor {
    encryption: Encryption,
    config: Arc<ServerConfig>,
    end_point: Option<Arc<[u8]>>,
    fingerprint: Fingerprint,
}

impl Acceptor {
    /// Puts it together.
    ///
    /// # Errors
    /// When certificate and key do not belong together, or are of a kind that is not supported.
    pub fn new(
        encryption: Encryption,
        identity: &Identity,
        clients: &ClientCertificates,
    ) -> Result<Self, Error> {
        let (kind, roots) = match clients {
            ClientCertificates::None => (0, None),
            ClientCertificates::Optional(roots) => (1, Some(roots)),
            ClientCertificates::Required(roots) => (2, Some(roots)),
        };
        let verifier = match roots {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(roots) => {
                let roots = Arc::new(roots.roots());
                let builder =
                    WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&PROVIDER));
                let optional = matches!(clients, ClientCertificates::Optional(_));
                let builder = if optional { builder.allow_unauthenticated() } else { builder };
                builder.build().map_err(Error::Roots)?
            }
        };
        let chain = identity.certificates.0.clone();
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, identity.key.0.clone_key())
            .map_err(Error::Identity)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // As in the server: a session is long, and resuming one is not worth its state.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let required = u8::from(encryption == Encryption::Required);
        let settings = [kind, required];
        let parts = std::iter::once(settings.as_slice())
            .chain(identity.parts())
            .chain(roots.into_iter().flat_map(Certificates::parts));
        let fingerprint = fingerprint(parts);
        let end_point = identity.certificates.0.first().and_then(|first| end_point(first));
        let end_point = end_point.map(Arc::from);
        Ok(Self { encryption, config: Arc::new(config), end_point, fingerprint })
    }

    /// Whether clients may do without.
    pub fn encryption(&self) -> Encryption {
        self.encryption
    }

    /// The channel binding of the certificate that clients see.
    pub fn end_point(&self) -> Option<Arc<[u8]>> {
        self.end_point.clone()
    }

    /// Shakes hands with a client that begins with this.
    ///
    /// # Errors
    /// When the client sends something else, shows no good certificate, goes away, or speaks
    /// another protocol by its ALPN.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        tokio_rustls::TlsAcceptor::from(Arc::clone(&self.config)).accept(stream).await
    }

    /// The same for a client that has not asked for TLS before: it must name the protocol, so that
    /// no client of another protocol can be made to speak to us.
    ///
    /// # Errors
    /// As with [`Acceptor::accept`], and when it does not name the protocol.
    pub async fn accept_direct(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let stream = self.accept(stream).await?;
        if stream.get_ref().1.alpn_protocol() == Some(ALPN) {
            return Ok(stream);
        }
        let message = "direct TLS without the ALPN protocol postgresql";
        Err(io::Error::new(io::ErrorKind::InvalidData, message))
    }
}

impl PartialEq for Acceptor {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for Acceptor {}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("encryption", &self.encryption).finish_non_exhaustive()
    }
}
