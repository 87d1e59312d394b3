//! Certificates of one's own, and a server that asks for them.

use pgsegue::throwaway::{Options, Postgres};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

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
