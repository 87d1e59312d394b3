//! How the server is reached: the modes are libpq's `sslmode`.

use super::{ALPN, Certificates, Error, Fingerprint, Identity, PROVIDER, fingerprint};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as RustlsError, RootCertStore,
    SignatureScheme,
};
use std::fmt;
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use x509_cert::der::{Decode as _, Encode as _};

/// Whether the connection is encrypted, and what the server has to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Not encrypted.
    Disable,
    /// Encrypted if the server can, else not.
    Prefer,
    /// Encrypted; any certificate will do.
    Require,
    /// Encrypted, by a certificate that a known authority has signed.
    VerifyCa,
    /// The same, and the certificate names the host.
    VerifyFull,
}

/// How TLS begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Negotiation {
    /// After an SSLRequest.
    Postgres,
    /// At once: a server of Postgres 17 or later.
    Direct,
}

/// Who vouches for the server.
#[derive(Debug, Clone)]
pub enum Roots {
    /// Nobody.
    None,
    /// The certificate authorities of this system.
    System,
    /// These, or the server's own certificate.
    Listed(Certificates),
}

/// What a [`Dialer`] is made of.
#[derive(Debug)]
pub struct Settings {
    /// Whether to encrypt.
    pub mode: Mode,
    /// How TLS begins.
    pub negotiation: Negotiation,
    /// Who vouches for the server.
    pub roots: Roots,
    /// What the proxy shows when the server asks.
    pub identity: Option<Identity>,
}

/// How the server is reached. Equal when made of the same files and settings.
#[derive(Clone)]
pub struct Dialer {
    mode: Mode,
    negotiation: Negotiation,
    config: Option<Arc<ClientConfig>>,
    fingerprint: Fingerprint,
}

impl Dialer {
    /// Without TLS.
    pub fn disabled() -> Self {
        let (mode, negotiation) = (Mode::Disable, Negotiation::Postgres);
        Self { mode, negotiation, config: None, fingerprint: fingerprint([]) }
    }

    /// Puts it together. As in libpq, a root certificate makes `require` check it.
    ///
    /// # Errors
    /// When certificate and key do not belong together, or the authorities cannot be used.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let (kind, roots, pinned) = match &settings.roots {
            Roots::None => (0, None, Vec::new()),
            Roots::System => (1, Some(system_roots()?), Vec::new()),
            Roots::Listed(listed) => (2, Some(listed.roots()), listed.0.clone()),
        };
        let roots = match roots {
            Some(roots) if settings.mode >= Mode::Require => {
                let provider = Arc::clone(&PROVIDER);
                let builder =
                    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
                Some(builder.build().map_err(Error::Roots)?)
            }
            _ => None,
        };
        let verifier = Verifier {
            roots,
            host: settings.mode == Mode::VerifyFull,
            algorithms: PROVIDER.signature_verification_algorithms,
            pinned,
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let identity = settings.identity.as_ref();
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(Identity { certificates, key }) => builder
                .with_client_auth_cert(certificates.0.clone(), key.0.clone_key())
                .map_err(Error::Identity)?,
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        let (mode, negotiation) = (settings.mode, settings.negotiation);
        let numbers = [kind, mode as u8, u8::from(negotiation == Negotiation::Direct)];
        let listed = match &settings.roots {
            Roots::Listed(listed) => Some(listed),
            _ => None,
        };
        let parts = std::iter::once(numbers.as_slice())
            .chain(identity.into_iter().flat_map(Identity::parts))
            .chain(listed.into_iter().flat_map(Certificates::parts));
        let fingerprint = fingerprint(parts);
        Ok(Self { mode, negotiation, config: Some(Arc::new(config)), fingerprint })
    }

    /// Whether to encrypt.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// How TLS begins.
    pub fn negotiation(&self) -> Negotiation {
        self.negotiation
    }

    /// For a client library that shakes hands by itself; `None` without TLS.
    pub fn config(&self) -> Option<&Arc<ClientConfig>> {
        self.config.as_ref()
    }

    /// Shakes hands with the server of this name or address.
    ///
    /// # Errors
    /// When the server sends something else, its certificate is not accepted, or it goes away.
    pub async fn connect(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
        let name = ServerName::try_from(host.to_owned()).map_err(invalid)?;
        let Some(config) = &self.config else { return Err(io::ErrorKind::Unsupported.into()) };
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
        let stream = connector.connect(name, stream).await?;
        let named = stream.get_ref().1.alpn_protocol() == Some(ALPN);
        if self.negotiation == Negotiation::Direct && !named {
            let message = "the server does not name the ALPN protocol postgresql";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(stream)
    }
}

impl PartialEq for Dialer {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for Dialer {}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("mode", &self.mode).finish_non_exhaustive()
    }
}

fn system_roots() -> Result<RootCertStore, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _unusable) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(Error::System(why.join("; ")));
    }
    Ok(roots)
}

/// Checks what the mode asks for. That the server holds the certificate's key is always checked:
/// channel binding stands on it.
#[derive(Debug)]
struct Verifier {
    /// `None`: any certificate will do.
    roots: Option<Arc<WebPkiServerVerifier>>,
    /// Whether the certificate has to name the host.
    host: bool,
    algorithms: WebPkiSupportedAlgorithms,
    /// Certificates that are accepted as the server's own.
    pinned: Vec<CertificateDer<'static>>,
}

impl Verifier {
    /// A self-signed certificate that is listed itself: OpenSSL takes it, webpki takes none that
    /// could sign others.
    fn is_pinned(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> bool {
        self.pinned.iter().any(|pinned| pinned == certificate)
            && x509_cert::Certificate::from_der(certificate).is_ok_and(|parsed| {
                let validity = parsed.tbs_certificate.validity;
                let now = now.as_secs();
                validity.not_before.to_unix_duration().as_secs() <= now
                    && now <= validity.not_after.to_unix_duration().as_secs()
            })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, RustlsError> {
        let Some(roots) = &self.roots else { return Ok(ServerCertVerified::assertion()) };
        // The chain is checked before the name.
        match roots.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(RustlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.host => Ok(ServerCertVerified::assertion()),
            Err(RustlsError::InvalidCertificate(_)) if self.is_pinned(end_entity, now) => {
                if self.host {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            checked => checked,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        match verify_tls13_signature(message, certificate, signature, &self.algorithms) {
            Err(error @ RustlsError::InvalidCertificate(_)) => {
                // webpki reads no X.509 v1, which is what the recipe in Postgres's manual makes.
                let Some(key) = public_key(certificate) else { return Err(error) };
                verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
            }
            checked => checked,
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn public_key(certificate: &CertificateDer<'_>) -> Option<SubjectPublicKeyInfoDer<'static>> {
    let parsed = x509_cert::Certificate::from_der(certificate).ok()?;
    Some(parsed.tbs_certificate.subject_public_key_info.to_der().ok()?.into())
}
