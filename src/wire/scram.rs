//! SCRAM-SHA-256 (RFC 5802, RFC 7677) between two TLS connections, as far as one in the middle
//! needs it who knows a role's verifier and no password.
//!
//! Both legs run one exchange: same nonces, salt and iterations, so the server's first message
//! passes as it is. They differ in the channel binding, so in the text that is signed. A proof is
//! `ClientKey XOR HMAC(StoredKey, text)`: with the StoredKey of the verifier, the proof for one
//! leg's text becomes the proof for the other's. Whether it is right is left to the server.
//!
//! Invariant: nothing here is shown by `Debug`. What a peer sends is read with checked bounds.

use super::reader::Reader;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use std::fmt;
use subtle::ConstantTimeEq as _;

/// The mechanism without channel binding.
pub const PLAIN: &[u8] = b"SCRAM-SHA-256";
/// The mechanism with channel binding.
pub const PLUS: &[u8] = b"SCRAM-SHA-256-PLUS";

/// Beginning of a stored verifier.
const VERIFIER: &str = "SCRAM-SHA-256$";
const END_POINT: &[u8] = b"p=tls-server-end-point,,";

type Hash = [u8; 32];

/// A message that is not SCRAM, or not the one that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It does not read as it must.
    #[error("malformed SCRAM message")]
    Malformed,
    /// The client saw another certificate than ours: there is somebody in between.
    #[error("SCRAM channel binding check failed")]
    Binding,
}

/// What a verifier holds beside salt and iterations.
#[derive(Clone)]
pub struct Keys {
    stored: Hash,
    server: Hash,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(_)")
    }
}

impl Keys {
    /// Reads `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`; `None` for anything else.
    pub fn of_verifier(text: &str) -> Option<Self> {
        let (_salt, keys) = text.strip_prefix(VERIFIER)?.split_once('$')?;
        let (stored, server) = keys.split_once(':')?;
        Some(Self { stored: hash(stored.as_bytes())?, server: hash(server.as_bytes())? })
    }

    /// Keys that fit no password: for a role that has none, so that it takes the same way.
    pub fn of_nobody() -> Self {
        // No proof made with them is right, whatever they are.
        Self { stored: [0; 32], server: [0; 32] }
    }
}

/// One end's channel binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding<'a> {
    /// By `tls-server-end-point`: the hash of the certificate on that leg.
    EndPoint(&'a [u8]),
    /// The client could, and believes that the other end cannot.
    NotOffered,
    /// Not supported.
    None,
}

impl Binding<'_> {
    fn header(&self) -> &'static [u8] {
        match self {
            Self::EndPoint(_) => END_POINT,
            Self::NotOffered => b"y,,",
            Self::None => b"n,,",
        }
    }

    fn mechanism(&self) -> &'static [u8] {
        match self {
            Self::EndPoint(_) => PLUS,
            Self::NotOffered | Self::None => PLAIN,
        }
    }

    /// The value of the attribute `c`.
    fn encoded(&self) -> String {
        let data = match self {
            Self::EndPoint(data) => data,
            Self::NotOffered | Self::None => &[][..],
        };
        BASE64.encode([self.header(), data].concat())
    }
}

/// The mechanisms in an AuthenticationSASL, after its code. `None`: malformed.
pub fn mechanisms(list: &[u8]) -> Option<Vec<&[u8]>> {
    let mut r = Reader::new(list);
    let mut found = Vec::new();
    loop {
        match r.cstr()? {
            b"" => return Some(found),
            name => found.push(name),
        }
    }
}

/// What the client began with: the rest of its message, if it chose what `binding` stands for.
/// `None` for every other message, well-formed or not.
pub fn client_first<'a>(initial_response: &'a [u8], binding: Binding<'_>) -> Option<&'a [u8]> {
    let mut r = Reader::new(initial_response);
    let mechanism = r.cstr()?;
    let message = r.value()??;
    (mechanism == binding.mechanism() && r.rest().is_empty() && !message.contains(&0))
        .then(|| message.strip_prefix(binding.header()))
        .flatten()
}

/// The body of a SASLInitialResponse.
pub fn initial_response(binding: Binding<'_>, bare: &[u8]) -> Vec<u8> {
    let message = [binding.header(), bare].concat();
    let mut body = [binding.mechanism(), b"\0"].concat();
    body.extend_from_slice(&i32::try_from(message.len()).unwrap_or(-1).to_be_bytes());
    body.extend_from_slice(&message);
    body
}

/// The exchange on both legs.
pub struct Exchange<'a> {
    keys: Keys,
    /// Of the leg to the client, and of the leg to the server.
    bindings: [Binding<'a>; 2],
    /// The client's first message without its header.
    bare: Vec<u8>,
    server_first: Vec<u8>,
    /// The texts that are signed, once the client has sent its last message.
    texts: [Vec<u8>; 2],
}

impl fmt::Debug for Exchange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exchange(_)")
    }
}

impl<'a> Exchange<'a> {
    /// An exchange of which both first messages are known.
    pub fn new(
        keys: Keys,
        to_client: Binding<'a>,
        to_server: Binding<'a>,
        bare: &[u8],
        server_first: &[u8],
    ) -> Self {
        let bindings = [to_client, to_server];
        let (bare, server_first) = (bare.to_owned(), server_first.to_owned());
        Self { keys, bindings, bare, server_first, texts: [Vec::new(), Vec::new()] }
    }

    /// Turns the client's last message into the one for the server.
    ///
    /// # Errors
    /// When it is malformed, or bound to another channel than the client's leg.
    pub fn client_final(&mut self, message: &[u8]) -> Result<Vec<u8>, Refused> {
        let malformed = Refused::Malformed;
        let end = message.windows(3).rposition(|w| w == b",p=").ok_or(malformed)?;
        let (unproven, proof) = message.split_at(end);
        let mut proof = proof.get(3..).and_then(hash).ok_or(malformed)?;
        let unproven = unproven.strip_prefix(b"c=").ok_or(malformed)?;
        let comma = unproven.iter().position(|b| *b == b',').ok_or(malformed)?;
        let (binding, rest) = unproven.split_at(comma);
        if !rest.starts_with(b",r=") || rest.contains(&0) {
            return Err(malformed);
        }
        let expected = self.bindings.map(|b| b.encoded());
        let [ours, _] = &expected;
        if !bool::from(ours.as_bytes().ct_eq(binding)) {
            return Err(Refused::Binding);
        }
        self.texts = expected.map(|binding| {
            [&self.bare, &b","[..], &self.server_first, b",c=", binding.as_bytes(), rest].concat()
        });
        let [client, server] = &self.texts;
        for text in [client, server] {
            let signature = sign(&self.keys.stored, text);
            proof.iter_mut().zip(signature).for_each(|(p, s)| *p ^= s);
        }
        let [_, theirs] = &self.bindings.map(|b| b.encoded());
        let proof = BASE64.encode(proof);
        Ok([b"c=", theirs.as_bytes(), rest, b",p=", proof.as_bytes()].concat())
    }

    /// Turns the server's last message into the one for the client; `None` when the server does
    /// not hold this verifier.
    pub fn server_final(&self, message: &[u8]) -> Option<Vec<u8>> {
        let [client, server] = &self.texts;
        let signature = message.strip_prefix(b"v=").and_then(hash)?;
        let right = bool::from(sign(&self.keys.server, server).ct_eq(&signature));
        let ours = sign(&self.keys.server, client);
        right.then(|| [b"v=", BASE64.encode(ours).as_bytes()].concat())
    }
}

/// 32 bytes from their base64 form.
fn hash(text: &[u8]) -> Option<Hash> {
    BASE64.decode(text).ok()?.try_into().ok()
}

fn sign(key: &Hash, text: &[u8]) -> Hash {
    // Any length of key will do, and this one's is fixed.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    mac.update(text);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
    use sha2::Digest as _;

    const SALT: &[u8] = b"0123456789abcdef";
    const ITERATIONS: u32 = 4096;

    /// The other end, which knows the password's keys.
    struct Server {
        keys: Keys,
        binding: Vec<u8>,
    }

    fn salted(password: &str) -> Hash {
        let mut block = sign_any(password.as_bytes(), &[SALT, &1u32.to_be_bytes()].concat());
        let mut sum = block;
        for _ in 1..ITERATIONS {
            block = sign_any(password.as_bytes(), &block);
            sum.iter_mut().zip(block).for_each(|(s, b)| *s ^= b);
        }
        sum
    }

    fn sign_any(key: &[u8], text: &[u8]) -> Hash {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        mac.update(text);
        mac.finalize().into_bytes().into()
    }

    fn verifier(password: &str) -> String {
        let salted = salted(password);
        let stored: Hash = Sha256::digest(sign_any(&salted, b"Client Key")).into();
        let server = sign_any(&salted, b"Server Key");
        format!(
            "SCRAM-SHA-256${ITERATIONS}:{}${}:{}",
            BASE64.encode(SALT),
            BASE64.encode(stored),
            BASE64.encode(server)
        )
    }

    impl Server {
        /// The last message, when the proof is right.
        fn check(&self, bare: &[u8], first: &[u8], last: &[u8]) -> Option<Vec<u8>> {
            let end = last.windows(3).rposition(|w| w == b",p=").unwrap();
            let (unproven, proof) = last.split_at(end);
            let text = [bare, b",", first, b",", unproven].concat();
            let mut key = hash(&proof[3..]).unwrap();
            key.iter_mut().zip(sign(&self.keys.stored, &text)).for_each(|(k, s)| *k ^= s);
            let bound = BASE64.encode([END_POINT, &self.binding].concat());
            let right = Hash::from(Sha256::digest(key)) == self.keys.stored
                && unproven.starts_with(format!("c={bound},r=").as_bytes());
            let signature = BASE64.encode(sign(&self.keys.server, &text));
            right.then(|| format!("v={signature}").into_bytes())
        }
    }

    /// A client with this password, through the middle, to a server with this verifier.
    fn run(password: &str, known: Keys, at_server: &str) -> Result<(), String> {
        let server = Server { keys: Keys::of_verifier(at_server).unwrap(), binding: vec![2; 48] };
        let ours = vec![1; 32];
        let binding = ChannelBinding::tls_server_end_point(ours.clone());
        let mut client = ScramSha256::new(password.as_bytes(), binding);
        let to_client = Binding::EndPoint(&ours);
        let initial = initial_response(to_client, &client.message()[END_POINT.len()..]);
        let bare = client_first(&initial, to_client).unwrap().to_owned();
        let nonce = std::str::from_utf8(bare.strip_prefix(b"n=,r=").unwrap()).unwrap();
        let first = format!("r={nonce}more,s={},i={ITERATIONS}", BASE64.encode(SALT));
        let to_server = Binding::EndPoint(&server.binding);
        let mut exchange = Exchange::new(known, to_client, to_server, &bare, first.as_bytes());
        client.update(first.as_bytes()).map_err(|e| e.to_string())?;
        let last = exchange.client_final(client.message()).map_err(|e| e.to_string())?;
        let last = server.check(&bare, first.as_bytes(), &last).ok_or("refused")?;
        let last = exchange.server_final(&last).ok_or("an impostor")?;
        client.finish(&last).map_err(|e| e.to_string())
    }

    #[test]
    fn the_right_password_and_no_other_passes_between_two_bindings() {
        let right = verifier("secret");
        let keys = || Keys::of_verifier(&right).unwrap();
        assert_eq!(run("secret", keys(), &right), Ok(()));
        assert_eq!(run("Secret", keys(), &right), Err("refused".to_owned()));
        // Changed at the server after it was read, and the reverse.
        let other = verifier("other");
        assert_eq!(run("secret", keys(), &other), Err("refused".to_owned()));
        assert_eq!(run("other", keys(), &other), Err("refused".to_owned()));
        assert_eq!(run("secret", Keys::of_nobody(), &right), Err("refused".to_owned()));
    }

    #[test]
    fn a_server_without_the_verifier_is_found_out() {
        let keys = Keys::of_verifier(&verifier("secret")).unwrap();
        let binding = Binding::None;
        let mut exchange = Exchange::new(keys, binding, binding, b"n=,r=a", b"r=ab,s=c,i=1");
        let proof = BASE64.encode([0; 32]);
        exchange.client_final(format!("c=biws,r=ab,p={proof}").as_bytes()).unwrap();
        for last in [format!("v={proof}"), "e=other-error".into(), "v=".into(), String::new()] {
            assert_eq!(exchange.server_final(last.as_bytes()), None, "{last}");
        }
    }

    #[test]
    fn what_is_not_the_message_is_refused() {
        let exchange = |binding| {
            let keys = Keys::of_nobody();
            Exchange::new(keys, binding, Binding::None, b"n=,r=a", b"r=ab,s=c,i=1")
        };
        let proof = BASE64.encode([0; 32]);
        let malformed = [
            "",
            ",p=",
            "c=biws,r=ab",
            "c=biws,r=ab,p=",
            "c=biws,r=ab,p=AAAA",
            "c=biws,p=!",
            "c=biws,x=1,r=ab,p=PROOF",
            "r=ab,c=biws,p=PROOF",
            "c=biws,r=a\0b,p=PROOF",
            "c=biws,r=ab,p=PROOF,x",
            "p=PROOF",
            "c=,p=PROOF",
        ];
        for text in malformed {
            let text = text.replace("PROOF", &proof);
            let refused = exchange(Binding::None).client_final(text.as_bytes());
            assert_eq!(refused, Err(Refused::Malformed), "{text}");
        }
        for binding in [Binding::EndPoint(&[1; 32]), Binding::NotOffered] {
            let text = format!("c=biws,r=ab,p={proof}");
            let refused = exchange(binding).client_final(text.as_bytes());
            assert_eq!(refused, Err(Refused::Binding));
        }
    }

    #[test]
    fn first_messages_of_another_kind_are_not_ours() {
        let end_point = Binding::EndPoint(&[1; 32]);
        let is_ours = |body: &[u8], binding| client_first(body, binding).is_some();
        assert!(is_ours(&initial_response(end_point, b"n=,r=a"), end_point));
        assert!(!is_ours(&initial_response(Binding::None, b"n=,r=a"), end_point));
        assert!(!is_ours(&initial_response(Binding::None, b"n=,r=a"), Binding::NotOffered));
        assert!(is_ours(&initial_response(Binding::NotOffered, b"n="), Binding::NotOffered));
        let begin = [PLUS, b"\0"].concat();
        for rest in [&b""[..], &[0, 0], &[255; 4], &[0, 0, 0, 9, b'p'], &[127, 255, 255, 255]] {
            assert!(!is_ours(&[&begin, rest].concat(), end_point), "{rest:?}");
        }
        let trailing = [&initial_response(end_point, b"n=,r=a"), &b"x"[..]].concat();
        assert!(!is_ours(&trailing, end_point));
    }

    #[test]
    fn verifiers() {
        let good = verifier("x");
        assert!(Keys::of_verifier(&good).is_some());
        for bad in ["", "md5aaaa", "SCRAM-SHA-256$", "SCRAM-SHA-256$1:s$a:b", &good[..60]] {
            assert!(Keys::of_verifier(bad).is_none(), "{bad}");
        }
        assert_eq!(format!("{:?}", Keys::of_verifier(&good)), "Some(Keys(_))");
    }

    proptest::proptest! {
        #[test]
        fn no_message_brings_it_down(
            message in "[a-z=,+/A0]{0,60}|.{0,60}", body: Vec<u8>, end_point: bool
        ) {
            let binding = if end_point { Binding::EndPoint(&[7; 32]) } else { Binding::None };
            let first = client_first(&body, binding).unwrap_or(&body).to_owned();
            let keys = Keys::of_verifier(&message).unwrap_or_else(Keys::of_nobody);
            let mut exchange = Exchange::new(keys, binding, binding, &first, &body);
            let _refused = exchange.client_final(message.as_bytes()).is_err();
            proptest::prop_assert_eq!(exchange.server_final(message.as_bytes()), None);
            let _list = mechanisms(&body);
        }
    }

    #[test]
    fn lists_of_mechanisms() {
        let list = [PLUS, b"\0", PLAIN, b"\0\0"].concat();
        assert_eq!(mechanisms(&list), Some(vec![PLUS, PLAIN]));
        assert_eq!(mechanisms(b"\0"), Some(vec![]));
        assert_eq!(mechanisms(b"SCRAM"), None);
    }
}
