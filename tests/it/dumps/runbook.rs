//! What docs/RESTORE.md says, run to the letter.

use std::{fs, path::Path};

use super::{DISK, disk, listed, shell};
use crate::harness::{
    pgkeep::Pgkeep,
    postgres::Cluster,
    process::{command, must, run},
};

/// The first shell block below a heading, without what gives each line to PostgreSQL's user.
fn block(heading: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/RESTORE.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, below) = page.split_once(&format!("# {heading}\n")).unwrap();
    let (_, block) = below.split_once("```sh\n").unwrap();
    block.split_once("```").unwrap().0.replace("sudo -u postgres ", "")
}

#[test]
fn one_table_comes_back_with_all_that_its_next_insert_takes() {
    let cluster = Cluster::start();
    // As the page calls it; the template's has no such table.
    cluster.psql("postgres", "DROP DATABASE app");
    cluster.psql("postgres", "CREATE DATABASE app");
    let made = "CREATE TABLE customers (id int PRIMARY KEY);
        CREATE TABLE orders (id serial PRIMARY KEY, customer int NOT NULL REFERENCES customers,
            state text NOT NULL DEFAULT 'new' CHECK (state <> ''));
        CREATE INDEX by_customer ON orders (customer);
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TRIGGER look BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION refuse();
        COMMENT ON COLUMN orders.state IS 'new, paid';
        GRANT SELECT ON orders TO PUBLIC;
        INSERT INTO customers SELECT generate_series(1, 9);
        INSERT INTO orders (customer) SELECT 1 + n % 9 FROM generate_series(1, 500) AS n;";
    cluster.psql("app", made);
    let home = Pgkeep::new().server("main", &cluster).local(DISK).dump(
        "nightly",
        "main",
        &["app"],
        &[DISK],
        "globals = false",
    );
    home.run(&["run", "nightly"]).expect_code(0);
    let copies = listed(&home, &disk(&home));
    let definition = || {
        let script =
            "pg_dump --table=public.orders --schema-only app | grep -v '^.\\(un\\)\\?restrict '";
        must(&mut shell(&cluster, script))
    };
    let before = definition();
    assert!(before.contains("FOREIGN KEY") && before.contains("TRIGGER"), "{before}");
    cluster.psql("app", "DROP TABLE orders CASCADE");

    let folder = tempfile::tempdir().unwrap();
    let mut unpack = command("sh");
    unpack.current_dir(&copies[0].folder).args([
        "-ec",
        "cat app.dump.zst | zstd -dc >\"$1\"",
        "sh",
    ]);
    must(unpack.arg(folder.path().join("app.dump")));
    let lines = block("One table that was dropped");
    run(shell(&cluster, &lines).current_dir(folder.path()), "").expect_code(0);

    assert_eq!(definition(), before);
    assert_eq!(cluster.psql("app", "SELECT count(*), sum(customer) FROM orders"), "500|2495");
    let next = "INSERT INTO orders (customer) VALUES (3) RETURNING id || state";
    assert!(cluster.psql("app", next).starts_with("501new"));
}
