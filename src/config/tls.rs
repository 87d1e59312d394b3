//! `[proxy.tls]` and `[server.tls]`: reads the files they name, so that a certificate that cannot
//! be used is a mistake in the config file like any other.

use super::file;
use super::settings::Check;
use crate::causes;
use crate::tls::{
    Acceptor, Certificates, ClientCertificates, Dialer, Encryption, Error, Identity, Key, Mode,
    Negotiation, Roots, Settings,
};
use std::path::{Path, PathBuf};
use toml::Spanned;

/// What clients are offered; `Some(None)`: no TLS.
pub(super) fn clients(
    check: &mut Check<'_>,
    raw: Option<&file::ProxyTls>,
) -> Option<Option<Acceptor>> {
    let Some(raw) = raw else { return Some(None) };
    let modes = [
        ("off", None),
        ("allow", Some(Encryption::Allowed)),
        ("require", Some(Encryption::Required)),
    ];
    let mode = check.word(raw.mode.as_ref(), &modes, Some(Encryption::Allowed));
    let words = [("optional", false), ("required", true)];
    let required = check.word(raw.client_certificates.as_ref(), &words, false);
    let identity = identity(check, &raw.certificate, &raw.key);
    let clients = match (&raw.client_ca, &raw.client_certificates) {
        (Some(file), _) => {
            let authorities = use_file(check, file, Certificates::read);
            match required? {
                false => authorities.map(ClientCertificates::Optional),
                true => authorities.map(ClientCertificates::Required),
            }
        }
        (None, Some(word)) => {
            let hint = "add client_ca with the authorities that sign them";
            check.wrong(&word.span(), "client certificates need a client_ca", hint);
            None
        }
        (None, None) => Some(ClientCertificates::None),
    };
    let (Some(mode), identity, clients) = (mode?, identity?, clients?) else {
        return Some(None);
    };
    match Acceptor::new(mode, &identity, &clients) {
        Ok(acceptor) => Some(Some(acceptor)),
        Err(error) => {
            unusable(check, &raw.certificate, &error);
            None
        }
    }
}

/// How the server is reached.
pub(super) fn server(check: &mut Check<'_>, raw: Option<&file::ServerTls>) -> Option<Dialer> {
    let Some(raw) = raw else { return Some(Dialer::disabled()) };
    let modes = [
        ("disable", Mode::Disable),
        ("prefer", Mode::Prefer),
        ("require", Mode::Require),
        ("verify-ca", Mode::VerifyCa),
        ("verify-full", Mode::VerifyFull),
    ];
    let mode = check.word(Some(&raw.mode), &modes, Mode::Disable);
    let ways = [("postgres", Negotiation::Postgres), ("direct", Negotiation::Direct)];
    let negotiation = check.word(raw.negotiation.as_ref(), &ways, Negotiation::Postgres);
    let roots = roots(check, mode, raw);
    let identity = match (&raw.certificate, &raw.key) {
        (Some(certificate), Some(key)) => identity(check, certificate, key).map(Some),
        (None, None) => Some(None),
        (Some(one), None) | (None, Some(one)) => {
            check.wrong(&one.span(), "certificate and key are needed together", "");
            None
        }
    };
    let (mode, negotiation) = (mode?, negotiation?);
    if let (Negotiation::Direct, Mode::Disable | Mode::Prefer, Some(word)) =
        (negotiation, mode, &raw.negotiation)
    {
        let hint = "a server that is asked directly cannot say no; use mode = \"require\" or more";
        check.wrong(&word.span(), "direct negotiation needs a mode that insists on TLS", hint);
        return None;
    }
    let settings = Settings { mode, negotiation, roots: roots?, identity: identity? };
    match Dialer::new(&settings) {
        Ok(dialer) => Some(dialer),
        Err(error) => {
            let place = raw.certificate.as_ref().or(raw.root_certificate.as_ref());
            unusable(check, place.unwrap_or(&raw.mode), &error);
            None
        }
    }
}

fn roots(check: &mut Check<'_>, mode: Option<Mode>, raw: &file::ServerTls) -> Option<Roots> {
    let Some(file) = &raw.root_certificate else {
        if mode? >= Mode::VerifyCa {
            let hint = "add root_certificate: a PEM file, or \"system\"";
            check.wrong(&raw.mode.span(), "nobody vouches for the server's certificate", hint);
            return None;
        }
        return Some(Roots::None);
    };
    if file.get_ref() != "system" {
        return use_file(check, file, Certificates::read).map(Roots::Listed);
    }
    if mode? != Mode::VerifyFull {
        // Anybody can have a certificate from a public authority, for a name of their own.
        let hint = "use mode = \"verify-full\", or the file of your own authority";
        check.wrong(&file.span(), "the system's authorities need the host to be checked", hint);
        return None;
    }
    Some(Roots::System)
}

fn identity(
    check: &mut Check<'_>,
    certificate: &Spanned<String>,
    key: &Spanned<String>,
) -> Option<Identity> {
    let certificates = use_file(check, certificate, Certificates::read);
    let key = use_file(check, key, Key::read);
    Some(Identity { certificates: certificates?, key: key? })
}

fn use_file<T>(
    check: &mut Check<'_>,
    file: &Spanned<String>,
    read: impl FnOnce(&Path) -> Result<T, Error>,
) -> Option<T> {
    match read(&check.path_of(file.get_ref())) {
        Ok(read) => Some(read),
        Err(error) => {
            unusable(check, file, &error);
            None
        }
    }
}

fn unusable(check: &mut Check<'_>, place: &Spanned<String>, error: &Error) {
    let hint = match error {
        Error::Unreadable { .. } => "a relative path starts at the config file's folder",
        _ => "",
    };
    check.wrong(&place.span(), &causes::in_one_line(error), hint);
}

/// The files that the sections for clients name: a change of one is a change of the config.
pub(super) fn files(raw: Option<&file::ProxyTls>, folder: &Path) -> Vec<PathBuf> {
    let Some(raw) = raw else { return Vec::new() };
    [Some(&raw.certificate), Some(&raw.key), raw.client_ca.as_ref()]
        .into_iter()
        .flatten()
        .map(|file| folder.join(file.get_ref()))
        .collect()
}
