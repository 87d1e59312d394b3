//! COPY in and out, in every format.

use crate::case::Author;
use crate::frames::{self, CopyWay};
use crate::pen::{Constants, Order, Pen, Sql};
use crate::random::Random;
use crate::schema::{Column, Fill, quoted};
use crate::sessions::copied;
use crate::{values, writes};

pub fn copy(author: &mut Author, session: usize) {
    if author.random.chance(35) {
        return out(author, session);
    }
    let table = {
        let mut pen = Pen::new(&mut author.random, &author.schema, Constants::Inline);
        pen.table().clone()
    };
    let mut columns = copied(&table);
    if !author.calm && author.random.chance(12) {
        // Without what the key needs: a default fills it, or there is an error.
        columns.retain(|c| !table.keys().iter().any(|k| k.name == c.name));
    }
    let all = columns.len() == table.columns.len() && author.random.chance(30);
    if !all && author.random.chance(30) {
        author.random.shuffle(&mut columns);
    }
    if columns.is_empty() {
        return;
    }
    let names: Vec<String> = columns.iter().map(|c| quoted(&c.name)).collect();
    let list = if all { String::new() } else { format!(" ({})", names.join(", ")) };
    let mut pen = Pen::new(&mut author.random, &author.schema, Constants::Inline);
    let name = pen.name(&table);
    let condition = match pen.random.chance(10) {
        true => format!(" WHERE {}", pen.key_is("", &table)),
        false => String::new(),
    };
    let binary = columns.iter().all(|c| c.kind.has_binary()) && author.random.chance(40);
    let (options, data) = match binary {
        true => (" WITH (FORMAT binary)", binary_data(&mut author.random, &columns)),
        false => lines(&mut author.random, &columns),
    };
    let mut sql = format!("COPY {name}{list} FROM STDIN{options}{condition}");
    let way = *author.random.pick(&[
        CopyWay::Simple,
        CopyWay::Simple,
        CopyWay::Simple,
        CopyWay::Extended,
        CopyWay::Early,
    ]);
    if way == CopyWay::Simple && author.random.chance(8) {
        sql = format!("SELECT 1; {sql}; SELECT 2");
    }
    let data = pieces(&mut author.random, data);
    let fail = author.random.chance(6);
    author.send(session, frames::copy_in(way, &sql, &data, fail));
}

/// Text or CSV with options, and the data.
fn lines(random: &mut Random, columns: &[&Column]) -> (&'static str, Vec<u8>) {
    let csv = random.chance(40);
    let options = match (csv, random.below(6)) {
        (true, 0) => " WITH (FORMAT csv, HEADER)",
        (true, 1) => " CSV",
        (true, 2) => " WITH (FORMAT 'csv', NULL 'nil', DELIMITER ';')",
        (true, 3) => " WITH (FORMAT csv, ENCODING 'UTF8', ESCAPE '\"')",
        (true, _) => " WITH (FORMAT csv)",
        (false, 0) => " WITH (FORMAT text)",
        (false, 1) => " WITH (NULL 'nil', DELIMITER '|')",
        (false, 2) => " DELIMITER '|' NULL 'nil'",
        (false, _) => "",
    };
    let mut data = String::new();
    if options.contains("HEADER") {
        data += "header\n";
    }
    for _ in 0..random.below(6) {
        let values: Vec<Option<String>> = columns.iter().map(|c| value(random, c)).collect();
        data += &if csv { csv_line(&values, options) } else { text_line(&values, options) };
    }
    if random.chance(5) {
        data += "too\tfew, or; too|many\n";
    }
    if !csv && random.chance(15) {
        data += "\\.\n";
    }
    if random.chance(4) {
        data = data.trim_end_matches('\n').to_owned();
    }
    (options, data.into_bytes())
}

fn binary_data(random: &mut Random, columns: &[&Column]) -> Vec<u8> {
    let mut data = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for _ in 0..random.below(6) {
        data.extend(u16::try_from(columns.len()).unwrap().to_be_bytes());
        for column in columns {
            let bytes = value(random, column).and_then(|image| column.kind.binary(&image));
            match bytes {
                None => data.extend((-1i32).to_be_bytes()),
                Some(bytes) => {
                    data.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
                    data.extend(bytes);
                }
            }
        }
    }
    match random.below(12) {
        0 => {
            data.pop();
        }
        1 => data.extend([0, 99]),
        2 => {}
        _ => data.extend((-1i16).to_be_bytes()),
    }
    data
}

fn value(random: &mut Random, column: &Column) -> Option<String> {
    match &column.fill {
        Fill::Constant(value) => Some(value.trim_matches('\'').to_owned()),
        _ if !column.not_null && random.chance(15) => None,
        _ => Some(values::image(random, column.kind)),
    }
}

fn text_line(values: &[Option<String>], options: &str) -> String {
    let (null, delimiter) = if options.contains("nil") { ("nil", '|') } else { ("\\N", '\t') };
    let escaped: Vec<String> = values
        .iter()
        .map(|value| match value {
            None => null.to_owned(),
            Some(value) => value
                .replace('\\', "\\\\")
                .replace('\n', "\\n")
                .replace('\t', "\\t")
                .replace('|', "\\|"),
        })
        .collect();
    escaped.join(&delimiter.to_string()) + "\n"
}

fn csv_line(values: &[Option<String>], options: &str) -> String {
    let (null, delimiter) = if options.contains("nil") { ("nil", ";") } else { ("", ",") };
    let fields: Vec<String> = values
        .iter()
        .map(|value| match value {
            None => null.to_owned(),
            Some(value) => format!("\"{}\"", value.replace('"', "\"\"")),
        })
        .collect();
    fields.join(delimiter) + "\n"
}

/// The data cut anywhere.
fn pieces(random: &mut Random, data: Vec<u8>) -> Vec<Vec<u8>> {
    let mut rest = data.as_slice();
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(random.between(1, rest.len().min(200)));
        pieces.push(piece.to_vec());
        rest = after;
    }
    pieces
}

fn out(author: &mut Author, session: usize) {
    let mut pen = Pen::new(&mut author.random, &author.schema, Constants::Inline);
    let table = pen.table();
    let name = pen.name(table);
    let columns = pen.columns("", &table.printable());
    let order = pen.order_by_key("", table);
    let format = *pen.random.pick(&["", " WITH (FORMAT csv, HEADER)", " CSV"]);
    let text = match pen.random.below(5) {
        3 => {
            let binary = " WITH (FORMAT binary)";
            let text =
                format!("COPY (SELECT {columns} FROM {name} ORDER BY {order}) TO STDOUT{binary}");
            return author.send(session, frames::simple(&Sql::plain(text)));
        }
        4 => {
            let write = writes::delete_from(&mut pen, table);
            format!("COPY ({write}) TO STDOUT{format}")
        }
        0 => format!("COPY {name} ({columns}) TO STDOUT{format}"),
        1 => format!("COPY (SELECT {columns} FROM {name}) TO STDOUT{format}"),
        _ => format!("COPY (SELECT {columns} FROM {name} ORDER BY {order}) TO STDOUT{format}"),
    };
    let mut sql = Sql::plain(text);
    sql.order = Order::Any;
    author.send(session, frames::simple(&sql));
}
