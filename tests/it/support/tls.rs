//! Certificates of one's own, and a server that asks for them.

use base64::Engine as _;
use pgsegue::throwaway::{Options, Postgres};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_postgres::Client;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;
use x509_cert::der::{Decode as _, Encode as _};

/// An authority that signs what it is asked to, and a folder for what it signs.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// The files of a certificate and its key.
#[derive(Debug, Clone)]
pub struct Signed {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

fn params(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.crt"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    /// Its own certificate.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// A certificate with this common name, for these hosts and addresses.
    pub fn sign(&self, name: &str, hosts: &[&str]) -> Signed {
        self.sign_params(name, params(name, hosts))
    }

    /// The same, and it has expired.
    pub fn sign_expired(&self, name: &str, hosts: &[&str]) -> Signed {
        let mut params = params(name, hosts);
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        self.sign_params(name, params)
    }

    /// A certificate of X.509 version 1, as if this authority had signed it.
    pub fn sign_version1(&self, name: &str) -> Signed {
        let signed = self.sign(name, &[]);
        let certificate = CertificateDer::from_pem_file(&signed.certificate).unwrap();
        let mut parsed = x509_cert::Certificate::from_der(&certificate).unwrap();
        parsed.tbs_certificate.version = x509_cert::Version::V1;
        parsed.tbs_certificate.extensions = None;
        let body = base64::engine::general_purpose::STANDARD.encode(parsed.to_der().unwrap());
        let text = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        fs::write(&signed.certificate, text).unwrap();
        signed
    }

    fn sign_params(&self, name: &str, params: CertificateParams) -> Signed {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let signed = Signed {
            certificate: self.folder.path().join(format!("{name}.crt")),
            key: self.folder.path().join(format!("{name}.key")),
        };
        fs::write(&signed.certificate, certificate.pem()).unwrap();
        fs::write(&signed.key, key.serialize_pem()).unwrap();
        fs::set_permissions(&signed.key, fs::Permissions::from_mode(0o600)).unwrap();
        signed
    }
}

/// A server with TLS whose `pg_hba.conf` has these lines.
pub async fn tls_server(authority: &Authority, signed: &Signed, hba: &str) -> Postgres {
    let postgres = Postgres::start(&Options::default()).unwrap_or_else(|error| panic!("{error}"));
    show_certificate(&postgres, signed).await;
    give(&postgres, &authority.root(), "root.crt");
    let client = super::connect(&postgres.conninfo("postgres")).await;
    let file: String =
        client.query_one("SELECT current_setting('hba_file')", &[]).await.unwrap().get(0);
    fs::write(file, hba).unwrap();
    for set in [
        "ALTER SYSTEM SET ssl_cert_file = '../server.crt'",
        "ALTER SYSTEM SET ssl_key_file = '../server.key'",
        "ALTER SYSTEM SET ssl_ca_file = '../root.crt'",
        "ALTER SYSTEM SET ssl = on",
        "SELECT pg_reload_conf()",
    ] {
        client.batch_execute(set).await.unwrap();
    }
    postgres.restart().unwrap();
    postgres
}

/// Puts a certificate where the server looks for it; in force after a reload.
pub async fn show_certificate(postgres: &Postgres, signed: &Signed) {
    give(postgres, &signed.certificate, "server.crt");
    give(postgres, &signed.key, "server.key");
}

/// Copies a file into the server's folder, for its eyes only.
fn give(postgres: &Postgres, from: &Path, name: &str) {
    let to = postgres.folder().join(name);
    fs::copy(from, &to).unwrap();
    fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).unwrap();
    let owner = fs::metadata(postgres.folder()).unwrap();
    chown(&to, Some(owner.uid()), Some(owner.gid())).unwrap();
}

impl Signed {
    /// `certificate` and `key` as the config file has them.
    pub fn toml(&self) -> String {
        format!(
            "certificate = \"{}\"\nkey = \"{}\"\n",
            self.certificate.display(),
            self.key.display()
        )
    }

    /// Takes the place of another: the file of the certificate last, each at once.
    pub fn replace(&self, other: &Self) {
        for (from, to) in [(&self.key, &other.key), (&self.certificate, &other.certificate)] {
            let next = to.with_extension("next");
            fs::copy(from, &next).unwrap();
            fs::rename(&next, to).unwrap();
        }
    }
}

/// A session over TLS with a peer whose certificate this authority has signed.
pub async fn connect_tls(
    conninfo: &str,
    authority: &Authority,
    alpn: &[&[u8]],
) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) =
        tokio_postgres::connect(conninfo, connector(authority, alpn)).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// What a client of this authority shakes hands with.
pub fn connector(authority: &Authority, alpn: &[&[u8]]) -> MakeRustlsConnect {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(authority.root()).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    MakeRustlsConnect::new(config)
}

/// A connection under TLS with nothing said in it.
pub async fn raw_tls(authority: &Authority, port: u16) -> impl AsyncRead + AsyncWrite + Unpin {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'S');
    let mut maker = connector(authority, &[]);
    let connect = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut maker, "127.0.0.1").unwrap();
    connect.connect(stream).await.unwrap()
}
