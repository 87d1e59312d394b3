// Runs the steps with node-postgres and prints everything that came back, one JSON line per result.
//
// Arguments: port, database, steps.json, mode ("parameters" or "named").

const fs = require("fs");
const { Client } = require("pg");

const [port, database, steps, mode] = process.argv.slice(2);
const client = new Client({ host: "127.0.0.1", port: Number(port), user: "postgres", database });
const notices = [];
client.on("notice", (n) => notices.push([n.code, n.message]));
// What has another number in each database is shown by name: tables and their row types.
let tables = {};
let types = {};
let named = 0;
const known = new Map();

function one(result) {
  // Rows of a table come in the order of their places in it, which vacuum changes.
  if (["UPDATE", "DELETE"].includes(result.command)) {
    result.rows.sort((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1));
  }
  return {
    command: result.command,
    rowCount: result.rowCount,
    fields: (result.fields || []).map((f) => [
      f.name, tables[f.tableID] || f.tableID, f.columnID, types[f.dataTypeID] || f.dataTypeID, f.dataTypeSize,
      f.dataTypeModifier, f.format,
    ]),
    rows: result.rows,
  };
}

const ERROR = ["code", "severity", "message", "detail", "hint", "position", "internalPosition",
  "internalQuery", "where", "schema", "table", "column", "constraint"];

async function attempt(what, query) {
  let shown;
  try {
    const result = await client.query(query);
    shown = Array.isArray(result) ? result.map(one) : one(result);
  } catch (error) {
    shown = ERROR.map((field) => error[field] ?? null);
  }
  console.log(JSON.stringify([what, shown, notices.splice(0)]));
}

/** One name per text, so that a repeated step runs what it prepared before. */
function nameOf(text) {
  if (!known.has(text)) known.set(text, `s${named++}`);
  return known.get(text);
}

async function main() {
  await client.connect();
  const names = async (catalog, prefix) => {
    const found = await client.query(`SELECT oid::int8::text AS oid, ${prefix}name AS name ` +
      `FROM ${catalog} WHERE ${prefix}namespace = 'public'::regnamespace`);
    return Object.fromEntries(found.rows.map((row) => [row.oid, row.name]));
  };
  tables = await names("pg_class", "rel");
  types = await names("pg_type", "typ");
  for (const step of JSON.parse(fs.readFileSync(steps, "utf8"))) {
    for (let n = 0; n < (step.repeat || 1); n++) {
      const query = { text: step.sql, rowMode: "array" };
      if (step.params) query.values = step.params;
      if (mode === "named" && !step.simple) query.name = nameOf(step.sql);
      await attempt(step.sql, query);
    }
  }
  const values = ["js", "77.70", "00000000-0000-0000-0000-000000000005", { a: [1, { b: null }] },
    new Date("2023-05-06T07:08:09.123Z"), Buffer.from([0, 1, 254]), ["ä", null, '"'], [1, null, -3],
    true, "naïve"];
  const insert = "INSERT INTO items (sku, price, tag, doc, at, raw, labels, nums, flag, note) " +
    "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING *";
  for (const name of [undefined, "types"]) {
    for (let n = 0; n < 2; n++) {
      values[0] = `js-${name}-${n}`;
      await attempt(insert, { text: insert, values, name, rowMode: "array" });
      await attempt(insert, { text: insert, values, name, rowMode: "array" });
      const select = "SELECT * FROM items WHERE tag = $1 AND at <= $2 AND labels = $3 ORDER BY id";
      const read = { text: select, values: [values[2], values[4], values[6]], rowMode: "array" };
      await attempt(select, { ...read, name: name && `${name}-read` });
      await attempt(select, { ...read, binary: true });
    }
  }
  for (const table of ["items ORDER BY id", "pairs ORDER BY a, b"]) {
    await attempt(table, { text: `SELECT * FROM ${table}`, rowMode: "array" });
  }
  // Nobody can say what this would do, so the proxy must expect that it writes: last.
  await attempt("no statement", "SELEC * FROM items");
  await client.end();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
