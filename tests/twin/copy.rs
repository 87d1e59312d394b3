//! COPY in and out, in every format.

use crate::case::Author;
use crate::frames;
use crate::pen::{Constants, Order, Pen, Sql};
use crate::random::Random;
use crate::schema::{Column, Fill, quoted};
use crate::sessions::copied;
use crate::values;

pub fn copy(author: &mut Author, session: usize) {
    if author.random.chance(35) {
        return out(author, session);
    }
    let table = {
        let mut pen = Pen::new(&mut author.random, &author.schema, Constants::Inline);
        pen.table().clone()
    };
    let columns = copied(&table);
    let all = columns.len() == table.columns.len() && author.random.chance(30);
    let names: Vec<String> = columns.iter().map(|c| quoted(&c.name)).collect();
    let list = if all { String::new() } else { format!(" ({})", names.join(", ")) };
    let csv = author.random.chance(40);
    let options = match (csv, author.random.below(5)) {
        (true, 0) => " WITH (FORMAT csv, HEADER)",
        (true, 1) => " CSV",
        (true, 2) => " WITH (FORMAT 'csv', NULL 'nil', DELIMITER ';')",
        (true, _) => " WITH (FORMAT csv)",
        (false, 0) => " WITH (FORMAT text)",
        (false, 1) => " WITH (NULL 'nil', DELIMITER '|')",
        (false, _) => "",
    };
    let name = Pen::new(&mut author.random, &author.schema, Constants::Inline).name(&table);
    let sql = format!("COPY {name}{list} FROM STDIN{options}");
    let mut data = String::new();
    if options.contains("HEADER") {
        data += "header\n";
    }
    for _ in 0..author.random.below(6) {
        let values: Vec<Option<String>> =
            columns.iter().map(|c| value(&mut author.random, c)).collect();
        data += &if csv { csv_line(&values, options) } else { text_line(&values, options) };
    }
    if author.random.chance(5) {
        data += "too\tfew, or; too|many\n";
    }
    if !csv && author.random.chance(15) {
        data += "\\.\n";
    }
    let data = pieces(&mut author.random, data.into_bytes());
    let fail = author.random.chance(6);
    author.send(session, frames::copy_in(&sql, &data, fail));
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
    let text = match pen.random.below(3) {
        0 => format!("COPY {name} ({columns}) TO STDOUT{format}"),
        1 => format!("COPY (SELECT {columns} FROM {name}) TO STDOUT{format}"),
        _ => format!("COPY (SELECT {columns} FROM {name} ORDER BY {order}) TO STDOUT{format}"),
    };
    let mut sql = Sql::plain(text);
    sql.order = Order::Any;
    author.send(session, frames::simple(&sql));
}
