//! The types that columns have, and values of them: few, so that rows meet; some of them nasty.

use crate::random::Random;

/// A column's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Int2,
    Int4,
    Int8,
    Numeric,
    Text,
    Varchar,
    Char,
    Bool,
    Timestamptz,
    Date,
    Uuid,
    Jsonb,
    Ints,
    Texts,
    Mood,
    Positive,
    Bytea,
    Float8,
    Pair,
}

use Kind::{
    Bool, Bytea, Char, Date, Float8, Int2, Int4, Int8, Ints, Jsonb, Mood, Numeric, Pair, Positive,
    Text, Texts, Timestamptz, Uuid, Varchar,
};

/// What columns beside the key may be.
pub const ALL: [Kind; 19] = [
    Int2,
    Int4,
    Int8,
    Numeric,
    Text,
    Varchar,
    Char,
    Bool,
    Timestamptz,
    Date,
    Uuid,
    Jsonb,
    Ints,
    Texts,
    Mood,
    Positive,
    Bytea,
    Float8,
    Pair,
];

/// What key columns may be.
pub const KEYS: [Kind; 9] = [Int2, Int4, Int8, Text, Varchar, Uuid, Date, Mood, Timestamptz];

/// What the types of one's own are.
pub const TYPES: &str = "CREATE TYPE public.mood AS ENUM ('sad', 'ok', 'it''s fine');
CREATE DOMAIN public.positive AS int4 CHECK (VALUE > 0);
CREATE TYPE public.pair AS (a int4, b text);
";

impl Kind {
    /// The type as a column definition has it.
    pub fn sql(self) -> &'static str {
        match self {
            Int2 => "int2",
            Int4 => "int4",
            Int8 => "int8",
            Numeric => "numeric(12,3)",
            Text => "text",
            Varchar => "varchar(40)",
            Char => "char(6)",
            Bool => "bool",
            Timestamptz => "timestamptz",
            Date => "date",
            Uuid => "uuid",
            Jsonb => "jsonb",
            Ints => "int4[]",
            Texts => "text[]",
            Mood => "public.mood",
            Positive => "public.positive",
            Bytea => "bytea",
            Float8 => "float8",
            Pair => "public.pair",
        }
    }

    /// Its object id, for a Parse that declares it; 0 where databases differ.
    pub fn oid(self) -> u32 {
        match self {
            Int2 => 21,
            Int4 => 23,
            Int8 => 20,
            Numeric => 1700,
            Text => 25,
            Varchar => 1043,
            Char => 1042,
            Bool => 16,
            Timestamptz => 1184,
            Date => 1082,
            Uuid => 2950,
            Jsonb => 3802,
            Ints => 1007,
            Texts => 1009,
            Bytea => 17,
            Float8 => 701,
            Mood | Positive | Pair => 0,
        }
    }

    pub fn is_integer(self) -> bool {
        matches!(self, Int2 | Int4 | Int8)
    }

    pub fn is_text(self) -> bool {
        matches!(self, Text | Varchar)
    }

    /// Whether its sum does not hang on the order of the rows.
    pub fn is_summable(self) -> bool {
        matches!(self, Int2 | Int4 | Int8 | Numeric | Positive)
    }

    /// Whether `max` knows it, and equal values are the same value.
    pub fn is_ordered(self) -> bool {
        !matches!(self, Bool | Jsonb | Uuid | Bytea | Pair | Float8)
    }

    /// Whether equal values are the same value: then it does not matter which of them is printed.
    pub fn is_exact(self) -> bool {
        self != Float8
    }

    /// Whether most of its values have a binary form here.
    pub fn has_binary(self) -> bool {
        !matches!(self, Numeric | Ints | Texts | Bytea | Pair)
    }

    /// The binary form of a value, where it is easily had.
    pub fn binary(self, image: &str) -> Option<Vec<u8>> {
        match self {
            Int2 => image.parse::<i16>().ok().map(|n| n.to_be_bytes().to_vec()),
            Int4 => image.parse::<i32>().ok().map(|n| n.to_be_bytes().to_vec()),
            Int8 => image.parse::<i64>().ok().map(|n| n.to_be_bytes().to_vec()),
            Text | Varchar => Some(image.as_bytes().to_vec()),
            Float8 => image.parse::<f64>().ok().map(|n| n.to_be_bytes().to_vec()),
            Char | Mood => Some(image.as_bytes().to_vec()),
            Positive => image.parse::<i32>().ok().map(|n| n.to_be_bytes().to_vec()),
            Jsonb => Some([b"\x01", image.as_bytes()].concat()),
            Uuid => u128::from_str_radix(&image.replace('-', ""), 16)
                .ok()
                .map(|n| n.to_be_bytes().to_vec()),
            Date => match image {
                "2024-01-01" => Some(8766i32.to_be_bytes().to_vec()),
                "-infinity" => Some(i32::MIN.to_be_bytes().to_vec()),
                _ => None,
            },
            Timestamptz => match image {
                "2024-01-01 00:00:00+00" => Some(757_382_400_000_000i64.to_be_bytes().to_vec()),
                "infinity" => Some(i64::MAX.to_be_bytes().to_vec()),
                _ => None,
            },
            Bool => Some(vec![u8::from(image == "t")]),
            _ => None,
        }
    }
}

const TEXTS: [&str; 14] = [
    "",
    "a",
    "b",
    "c",
    "it's",
    "100%",
    "back\\slash",
    "ünï 表",
    "line\nbreak",
    "tab\there",
    "\"q\"",
    "$1; --",
    "NULL",
    "\\N",
];

/// The text image of a value.
pub fn image(random: &mut Random, kind: Kind) -> String {
    let of = |random: &mut Random, from: &[&str]| (*random.pick(from)).to_owned();
    match kind {
        Int2 | Int4 | Int8 => integer(random, kind),
        Numeric => of(random, &["0", "1.5", "1.50", "-0.001", "99999.999", "NaN", "7", "12.3456"]),
        Text if random.chance(3) => "long ".repeat(random.between(300, 3000)),
        Text | Varchar => of(random, &TEXTS),
        Char => of(random, &["", "ab", "ab  ", "x", "ünï", "100%"]),
        Bool => of(random, &["t", "f"]),
        Timestamptz => of(
            random,
            &[
                "2024-01-01 00:00:00+00",
                "2024-06-30 12:34:56.789+02",
                "1999-12-31 23:59:59-08",
                "infinity",
                "2024-01-01 00:00:00.000001+00",
            ],
        ),
        Date => of(random, &["2024-01-01", "2024-02-29", "1999-12-31", "-infinity", "2030-05-05"]),
        Uuid => format!("{:08}-0000-4000-8000-00000000000{}", random.below(2), random.below(4)),
        Jsonb => of(
            random,
            &[
                "{\"a\": 1, \"b\": [1, 2]}",
                "[]",
                "{}",
                "null",
                "{\"a\": {\"c\": \"it's 100%\"}}",
                "[1, \"two\", null]",
            ],
        ),
        Ints => of(random, &["{1,2,3}", "{}", "{NULL,5}", "[2:3]={7,8}", "{{1,2},{3,4}}"]),
        Texts => of(random, &["{a,\"b c\",NULL}", "{}", "{\"it's\",\"\\\\\",\"\\\"\"}"]),
        Mood => of(random, &["sad", "ok", "it's fine"]),
        Positive if random.chance(2) => "0".to_owned(),
        Positive => random.between(1, 9).to_string(),
        Bytea => of(random, &["\\x", "\\x00ff", "\\x5c27", "\\xdeadbeef"]),
        Float8 => of(random, &["0", "-0", "1.5", "NaN", "Infinity", "1e300", "0.1", "-2.25"]),
        Pair => of(random, &["(1,x)", "(,\"a b\")", "(2,)", "(,)"]),
    }
}

fn integer(random: &mut Random, kind: Kind) -> String {
    match random.below(60) {
        0 => "32767".to_owned(),
        1 if kind != Int2 => "-2147483648".to_owned(),
        2 => "2147483648".to_owned(),
        3 => "-1".to_owned(),
        4 if kind == Int8 => "9223372036854775807".to_owned(),
        _ => random.between(1, 14).to_string(),
    }
}

/// A string constant, in one of the ways to write it.
pub fn quoted(random: &mut Random, text: &str) -> String {
    let plain = || format!("'{}'", text.replace('\'', "''"));
    match random.below(10) {
        0 => format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'")),
        1 if !text.contains('$') => format!("$${text}$$"),
        2 if !text.contains("$q$") && !text.ends_with('$') => format!("$q${text}$q$"),
        3 => format!("U&'{}'", text.replace('\\', "\\\\").replace('\'', "''")),
        _ => plain(),
    }
}

/// A value as a constant in SQL.
pub fn literal(random: &mut Random, kind: Kind) -> String {
    let image = image(random, kind);
    let cast = random.chance(20);
    match kind {
        Int2 | Int4 | Int8 | Positive => image,
        Bool if !cast => if image == "t" { "true" } else { "FALSE" }.to_owned(),
        Ints if !cast && image == "{1,2,3}" => "ARRAY[1, 2, 3]".to_owned(),
        Pair if !cast && image == "(1,x)" => "ROW(1, 'x')".to_owned(),
        _ => {
            let constant = quoted(random, &image);
            if cast { format!("{constant}::{}", kind.sql()) } else { constant }
        }
    }
}
