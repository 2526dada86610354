// Reads what standard input asks for with tedious and prints one JSON array of results, one per statement.
const { Connection, Request, TYPES } = require("tedious");

const plan = JSON.parse(require("fs").readFileSync(0, "utf8"));
const results = [];

function plain(value) {
  if (Buffer.isBuffer(value)) return "0x" + value.toString("hex");
  if (value instanceof Date) return value.toISOString();
  return value;
}

function run(connection, step) {
  return new Promise((resolve) => {
    const result = { rows: [] };
    const request = new Request(step.sql, (error, count) => {
      if (error) result.error = { number: error.number, code: error.code, message: error.message };
      result.count = count;
      results.push(result);
      resolve();
    });
    for (const [name, type, value] of step.parameters || []) request.addParameter(name, TYPES[type], value);
    request.on("row", (columns) => {
      result.rows.push(columns.map((column) => plain(column.value)));
      if (step.cancelAfter && result.rows.length === step.cancelAfter) connection.cancel();
    });
    if (step.transaction) {
      connection.beginTransaction((error) => {
        if (error) throw error;
        connection[step.transaction]((failed) => {
          if (failed) throw failed;
          resolve();
        });
      });
    } else if (step.parameters) connection.execSql(request);
    else connection.execSqlBatch(request);
  });
}

const connection = new Connection({
  server: "localhost",
  authentication: { type: "default", options: { userName: "sa", password: plan.password } },
  options: { port: plan.port, database: "db", encrypt: plan.encrypt, trustServerCertificate: true, useUTC: true },
});
connection.connect(async (error) => {
  if (error) {
    console.log(JSON.stringify({ error: error.message }));
    process.exit(1);
  }
  for (const step of plan.steps) await run(connection, step);
  console.log(JSON.stringify(results));
  connection.close();
});
