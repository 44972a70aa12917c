//! How a person restores a backup with standard tools. Every manifest carries these lines.

use crate::domain::{
    manifest::DatabaseFacts,
    recipients::Recipients,
    scope::{Contents, Scope},
};

/// Writes `text` so that a POSIX shell reads it as one word.
pub fn shell_quote(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./=:,@%+".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The lines for a backup in `volumes` files: of a database (or of a selection of it), or of the
/// globals.
pub fn lines(
    facts: Option<&DatabaseFacts>,
    scope: Option<&Scope>,
    volumes: &[String],
    tool_major: u32,
    recipients: &Recipients,
) -> Vec<String> {
    match facts {
        Some(facts) => {
            let whole = Scope::default();
            for_database(facts, scope.unwrap_or(&whole), volumes, tool_major, recipients)
        }
        None => for_globals(volumes, recipients),
    }
}

/// From the files to what the tool wrote.
fn unpack(volumes: &[String], recipients: &Recipients) -> String {
    let decrypt = if recipients.is_empty() { "" } else { "age -d -i KEYFILE | " };
    format!("cat {} | {decrypt}zstd -dc", quoted(volumes))
}

/// Who can decrypt it; nothing where everybody can read it.
fn key_note(recipients: &Recipients) -> Option<String> {
    (!recipients.is_empty()).then(|| {
        format!(
            "# You need age, and in place of KEYFILE a file with the secret key of: {recipients}."
        )
    })
}

fn for_database(
    facts: &DatabaseFacts,
    scope: &Scope,
    volumes: &[String],
    tool_major: u32,
    recipients: &Recipients,
) -> Vec<String> {
    let unpack = unpack(volumes, recipients);
    let mut lines = vec![
        "# Restore with standard tools, in the folder of this file (fetch it first if it lies in a bucket).".to_owned(),
        format!("# You need zstd, and pg_restore of PostgreSQL {tool_major} or newer."),
    ];
    lines.extend(key_note(recipients));
    // Every PostgreSQL has plpgsql.
    let extensions = facts.extensions.iter().filter(|extension| extension.name != "plpgsql");
    let names: Vec<_> = extensions.map(|e| format!("{} {}", e.name, e.version)).collect();
    if !names.is_empty() {
        lines.push(format!("# The server needs these extensions: {}.", names.join(", ")));
    }
    if !scope.is_whole() {
        lines.push(format!(
            "# It is not the whole database, but: {}.",
            one_line(&scope.to_string())
        ));
    }
    lines.extend([
        "# 1. Are the files what was stored? Compare with objects[].sha256 in manifest.json."
            .to_owned(),
        format!("sha256sum {}", quoted(volumes)),
        "# 2. Roles and tablespaces come from the backup of @globals of the same time.".to_owned(),
    ]);
    if scope.contents == Contents::Data {
        lines.extend(into_definitions(&unpack));
        return lines;
    }
    lines.extend([
        "# 3. A new, empty database; never restore over one that is in use.".to_owned(),
        createdb(facts),
    ]);
    if !scope.tables.is_empty() {
        lines.push(
            "#    The schemas of the tables are not in it, nor types and functions that they use: \
             make them first."
                .to_owned(),
        );
    }
    lines.extend([
        "# 4. Restore, and stop at the first error.".to_owned(),
        format!("{unpack} | pg_restore --exit-on-error --no-password --dbname=restored"),
        "#    On a new server, under its own name and with its own locale and settings:".to_owned(),
        format!(
            "#    {unpack} | pg_restore --create --exit-on-error --no-password --dbname=postgres"
        ),
        "# 5. Statistics are not in it.".to_owned(),
        "vacuumdb --analyze-in-stages --dbname=restored".to_owned(),
    ]);
    lines
}

/// A dump of data alone does not do it.
const REFRESH: &str = r#"psql --no-psqlrc --tuples-only --no-align --dbname=restored --command="SELECT format('REFRESH MATERIALIZED VIEW %I.%I;', nspname, relname) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace WHERE relkind = 'm' ORDER BY c.oid" | psql --no-psqlrc --set=ON_ERROR_STOP=1 --dbname=restored"#;

fn createdb(facts: &DatabaseFacts) -> String {
    format!(
        "createdb --template=template0 --encoding={} --lc-collate={} --lc-ctype={} restored",
        shell_quote(&facts.encoding),
        shell_quote(&facts.collate),
        shell_quote(&facts.ctype),
    )
}

/// Data alone goes where the definitions are. Triggers would fire, and foreign keys fail where the
/// order of tables does not suit them.
fn into_definitions(unpack: &str) -> [String; 6] {
    [
        "# 3. It holds data only: `restored` has to have the definitions, and no rows.".to_owned(),
        "# 4. Restore, and stop at the first error; --disable-triggers takes a superuser."
            .to_owned(),
        format!(
            "{unpack} | pg_restore --data-only --disable-triggers --exit-on-error --no-password \
             --dbname=restored"
        ),
        "#    Materialized views are filled anew.".to_owned(),
        REFRESH.to_owned(),
        "vacuumdb --analyze-in-stages --dbname=restored".to_owned(),
    ]
}

/// Fit for a comment: a name may hold a line end.
fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

fn for_globals(volumes: &[String], recipients: &Recipients) -> Vec<String> {
    let mut lines = vec![
        "# Roles, tablespaces and their settings. Read it before you run it: it changes the whole cluster.".to_owned(),
    ];
    lines.extend(key_note(recipients));
    lines.extend([
        format!("sha256sum {}", quoted(volumes)),
        format!(
            "{} | psql --no-psqlrc --set=ON_ERROR_STOP=0 --dbname=postgres",
            unpack(volumes, recipients)
        ),
        "# ON_ERROR_STOP=0: roles that exist already are errors that do not matter; read the others.".to_owned(),
    ]);
    lines
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| shell_quote(name)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_only_where_needed() {
        assert_eq!(shell_quote("a=2Fb.dump.zst"), "a=2Fb.dump.zst");
        assert_eq!(shell_quote("it's"), r"'it'\''s'");
        assert_eq!(shell_quote(""), "''");
        assert_eq!(shell_quote("$(x)"), "'$(x)'");
    }

    #[test]
    fn what_is_encrypted_names_its_key() {
        let volumes = ["g.sql.zst.age".to_owned(), "g.sql.zst.age.001".to_owned()];
        let somebody: Recipients = ["age1x".to_owned()].into_iter().collect();
        let lines = for_globals(&volumes, &somebody).join("\n");
        let step = "cat g.sql.zst.age g.sql.zst.age.001 | age -d -i KEYFILE | zstd -dc | psql";
        assert!(lines.contains(step) && lines.contains("secret key of: age1x."), "{lines}");
        let lines = for_globals(&volumes, &Recipients::default()).join("\n");
        assert!(!lines.contains("age -d") && !lines.contains("KEYFILE"), "{lines}");
    }
}
