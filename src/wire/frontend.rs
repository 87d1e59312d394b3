//! Views of the client's messages that the proxy looks into. `None`: malformed; the frame goes to
//! the server as it is, which answers with its own error.

use super::reader::Reader;

/// `Q`: one text.
pub fn query(body: &[u8]) -> Option<&[u8]> {
    let mut r = Reader::new(body);
    let text = r.cstr()?;
    r.rest().is_empty().then_some(text)
}

/// `P`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parse<'a> {
    /// Statement name.
    pub name: &'a [u8],
    /// The text.
    pub sql: &'a [u8],
    /// Parameter types: count and object ids, as they came.
    pub types: &'a [u8],
}

/// Reads a `P` body.
pub fn parse(body: &[u8]) -> Option<Parse<'_>> {
    let mut r = Reader::new(body);
    let (name, sql) = (r.cstr()?, r.cstr()?);
    let types = r.rest();
    let count = r.count()?;
    (r.rest().len() == count.checked_mul(4)?).then_some(Parse { name, sql, types })
}

impl Parse<'_> {
    /// The declared type of parameter `n` (from 1); 0 or nothing: left to the server.
    pub fn type_of(&self, n: u16) -> u32 {
        let at = 2 + 4 * (usize::from(n).saturating_sub(1));
        let bytes = self.types.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok());
        bytes.map_or(0, u32::from_be_bytes)
    }
}

/// `B`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind<'a> {
    /// Portal name.
    pub portal: &'a [u8],
    /// Statement name.
    pub statement: &'a [u8],
    /// Everything after the names.
    pub rest: &'a [u8],
}

/// Reads the names of a `B` body; what follows is not looked at.
pub fn bind(body: &[u8]) -> Option<Bind<'_>> {
    let mut r = Reader::new(body);
    let (portal, statement) = (r.cstr()?, r.cstr()?);
    Some(Bind { portal, statement, rest: r.rest() })
}

/// The values of a `B`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindValues<'a> {
    /// Format codes, count and values, as they came: everything before the result formats.
    pub parameters: &'a [u8],
    /// Each parameter with its format code (0 text, 1 binary).
    pub values: Vec<(i16, Option<&'a [u8]>)>,
    /// Result format codes.
    pub result_formats: Vec<i16>,
}

impl<'a> Bind<'a> {
    /// Reads what follows the names.
    pub fn values(&self) -> Option<BindValues<'a>> {
        let mut r = Reader::new(self.rest);
        let formats = (0..r.count()?).map(|_| r.i16()).collect::<Option<Vec<_>>>()?;
        let count = r.count()?;
        let format = |i: usize| match formats.as_slice() {
            [] => Some(0),
            [all] => Some(*all),
            each => each.get(i).copied(),
        };
        let mut values = Vec::with_capacity(count.min(r.rest().len()));
        for i in 0..count {
            values.push((format(i)?, r.value()?));
        }
        let parameters = self.rest.get(..self.rest.len() - r.rest().len())?;
        let result_formats = (0..r.count()?).map(|_| r.i16()).collect::<Option<Vec<_>>>()?;
        r.rest().is_empty().then_some(BindValues { parameters, values, result_formats })
    }
}

/// What a `D` or `C` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named<'a> {
    /// `S`
    Statement(&'a [u8]),
    /// `P`
    Portal(&'a [u8]),
}

/// Reads a `D` or `C` body.
pub fn named(body: &[u8]) -> Option<Named<'_>> {
    let mut r = Reader::new(body);
    let kind = r.u8()?;
    let name = r.cstr()?;
    match (kind, r.rest().is_empty()) {
        (b'S', true) => Some(Named::Statement(name)),
        (b'P', true) => Some(Named::Portal(name)),
        _ => None,
    }
}

/// Reads an `E` body: the portal's name.
pub fn execute(body: &[u8]) -> Option<&[u8]> {
    let mut r = Reader::new(body);
    let portal = r.cstr()?;
    r.i32()?;
    r.rest().is_empty().then_some(portal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use pgwire::messages::Message;
    use pgwire::messages::extendedquery as ext;

    fn body(message: &impl Message) -> Vec<u8> {
        let mut out = BytesMut::new();
        message.encode(&mut out).unwrap();
        out[5..].to_vec()
    }

    #[test]
    fn views_agree_with_pgwire() {
        let p = body(&ext::Parse::new(Some("s".into()), "select $1".into(), vec![23, 0]));
        let view = parse(&p).unwrap();
        assert_eq!((view.name, view.sql), (&b"s"[..], &b"select $1"[..]));
        assert_eq!((view.type_of(1), view.type_of(2), view.type_of(3)), (23, 0, 0));
        let b = body(&ext::Bind::new(
            Some("p".into()),
            Some("s".into()),
            vec![1],
            vec![Some(vec![0, 1].into()), None],
            vec![0, 1],
        ));
        let view = bind(&b).unwrap();
        assert_eq!((view.portal, view.statement), (&b"p"[..], &b"s"[..]));
        let values = view.values().unwrap();
        assert_eq!(values.values, [(1, Some(&[0, 1][..])), (1, None)]);
        assert_eq!(values.result_formats, [0, 1]);
        let e = body(&ext::Execute::new(Some("p".into()), 5));
        assert_eq!(execute(&e), Some(&b"p"[..]));
        let d = body(&ext::Describe::new(b'S', Some("s".into())));
        assert_eq!(named(&d), Some(Named::Statement(b"s")));
    }

    #[test]
    fn a_statement_may_have_65535_parameters() {
        for n in [32_767, 32_768, 65_535] {
            let p = body(&ext::Parse::new(None, "insert …".into(), vec![23; n]));
            let last = u16::try_from(n).unwrap();
            assert_eq!(parse(&p).map(|p| (p.type_of(1), p.type_of(last))), Some((23, 23)));
            let values = vec![Some(vec![b'1'].into()); n];
            let b = body(&ext::Bind::new(None, None, vec![1; n], values, vec![0; n]));
            let values = bind(&b).and_then(|b| b.values()).unwrap();
            assert_eq!((values.values.len(), values.result_formats.len()), (n, n));
        }
    }

    #[test]
    fn every_truncation_is_malformed_and_none_panics() {
        let p = body(&ext::Parse::new(Some("s".into()), "select 1".into(), vec![23]));
        let b = body(&ext::Bind::new(None, None, vec![1], vec![Some(vec![7; 4].into())], vec![1]));
        for cut in 0..p.len() {
            assert_eq!(parse(&p[..cut]), None);
        }
        for cut in 0..b.len() {
            assert_eq!(bind(&b[..cut]).and_then(|b| b.values()), None, "{cut}");
        }
        assert_eq!(query(b"a\0b\0"), None);
        assert_eq!(execute(b"p\0\0\0"), None);
        assert_eq!(named(b"X\0"), None);
    }
}
