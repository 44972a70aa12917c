//! How a person restores a backup with standard tools. Every manifest carries these lines.

use crate::domain::{
    manifest::{DatabaseFacts, StoredFile},
    pattern::Glob,
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

/// What the lines are about.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// The database; none: the globals.
    pub database: Option<&'a DatabaseFacts>,
    /// What of it, where it is not all of it.
    pub scope: Option<&'a Scope>,
    /// Whether it is SQL for psql, and no archive.
    pub is_script: bool,
    /// The names of the volumes as they are stored.
    pub volumes: &'a [String],
    /// What lies beside them.
    pub files: &'a [StoredFile],
    /// The major version of the program that made it.
    pub tool_major: u32,
    /// Whom it is encrypted to.
    pub recipients: &'a Recipients,
}

/// The lines for a backup.
pub fn lines(about: &About<'_>) -> Vec<String> {
    match about.database {
        Some(facts) => for_database(facts, about),
        None => for_globals(about),
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

fn for_database(facts: &DatabaseFacts, about: &About<'_>) -> Vec<String> {
    let whole = Scope::default();
    let scope = about.scope.unwrap_or(&whole);
    let unpack = unpack(about.volumes, about.recipients);
    let (program, major) = (if about.is_script { "psql" } else { "pg_restore" }, about.tool_major);
    let mut lines = vec![
        "# Restore with standard tools, in the folder of this file (fetch it first if it lies in a bucket).".to_owned(),
        format!("# You need zstd, and {program} of PostgreSQL {major} or newer."),
    ];
    if about.is_script {
        lines.push("#    An old minor version of psql does not know \\restrict.".to_owned());
    }
    lines.extend(key_note(about.recipients));
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
        format!("sha256sum {}", quoted(about.volumes)),
        "# 2. Roles and tablespaces come from the backup of @globals of the same time.".to_owned(),
    ]);
    if scope.contents == Contents::Data {
        lines.extend(into_definitions(&unpack, about.is_script));
        return lines;
    }
    lines.extend([
        "# 3. A new, empty database; never restore over one that is in use.".to_owned(),
        createdb(facts),
        "#    Owner, settings, comment and grants of the database are not restored: whoever may connect to a new one may \
         connect to it. They stand in databases.sql of @globals; docs/RESTORE.md has the way.".to_owned(),
    ]);
    if !scope.tables.is_empty() {
        lines.push(
            "#    The schemas of the tables are not in it, nor types and functions that they use: \
             make them first."
                .to_owned(),
        );
    }
    if !scope.schemas.is_empty() {
        lines.push(
            "#    What is in no schema, or in another, is not in it: make extensions, foreign servers and \
             whatever else the schemas use first."
                .to_owned(),
        );
    }
    // A schema that is selected is made by the dump, also the one that every new database has.
    let has_public = |globs: &[Glob]| globs.iter().any(|glob| glob.matches("public"));
    let makes_public = has_public(&scope.schemas) && !has_public(&scope.exclude_schemas);
    if makes_public {
        lines.extend([
            "#    The backup makes the schema public: drop the one that is there, wherever it is restored."
                .to_owned(),
            "psql --no-psqlrc --dbname=restored --command='DROP SCHEMA IF EXISTS public'".to_owned(),
        ]);
    }
    lines.extend([
        "# 4. Restore, and stop at the first error.".to_owned(),
        format!("{unpack} | {}", restore_into("restored", about.is_script)),
    ]);
    let own = shell_quote(&conninfo(&facts.name));
    lines.extend([
        "#    On a new server, into the empty database that databases.sql of @globals makes:"
            .to_owned(),
        format!(
            "#    {}",
            one_line(&format!("{unpack} | {WRITABLE} {}", restore_into(&own, about.is_script)))
        ),
    ]);
    // Every server has this one already.
    if !about.is_script && facts.name != "postgres" && !makes_public {
        lines.extend([
            "#    or, without databases.sql, under its own name and with its own locale and settings:".to_owned(),
            format!("#    {unpack} | {WRITABLE} pg_restore --create --exit-on-error --no-password --dbname=postgres"),
        ]);
    }
    lines.extend([
        "# 5. Statistics are not in it.".to_owned(),
        "vacuumdb --analyze-in-stages --dbname=restored".to_owned(),
    ]);
    lines
}

/// The program that restores, into a database as the shell has it.
fn restore_into(database: &str, is_script: bool) -> String {
    if is_script {
        return format!(
            "psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --no-password --dbname={database}"
        );
    }
    format!("pg_restore --exit-on-error --no-password --dbname={database}")
}

/// A connection string: a name with `=` in it would be taken for one.
fn conninfo(database: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if database.bytes().all(plain) {
        return database.to_owned();
    }
    format!("dbname='{}'", database.replace('\\', r"\\").replace('\'', r"\'"))
}

/// A database may be read-only by its own settings, which are there before its data.
const WRITABLE: &str = "PGOPTIONS='-c default_transaction_read_only=off'";
/// A dump of data alone does not do it.
const REFRESH: &str = r#"psql --no-psqlrc --tuples-only --no-align --dbname=restored --command="SELECT format('REFRESH MATERIALIZED VIEW %I.%I;', nspname, relname) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace WHERE relkind = 'm' ORDER BY c.oid" | psql --no-psqlrc --set=ON_ERROR_STOP=1 --dbname=restored"#;

fn createdb(facts: &DatabaseFacts) -> String {
    let mut line = format!(
        "createdb --template=template0 --encoding={} --lc-collate={} --lc-ctype={}",
        shell_quote(&facts.encoding),
        shell_quote(&facts.collate),
        shell_quote(&facts.ctype),
    );
    match (facts.locale_provider.as_deref(), &facts.locale) {
        (Some(provider @ ("icu" | "builtin")), Some(locale)) => {
            let locale = shell_quote(locale);
            line.push_str(
                &[" --locale-provider=", provider, " --", provider, "-locale=", &locale].concat(),
            );
        }
        // Else it would be the provider of the new cluster's template0.
        (Some("libc"), _) => line.push_str(" --locale-provider=libc"),
        _ => {}
    }
    if let Some(rules) = &facts.icu_rules {
        line.push_str(&[" --icu-rules=", &shell_quote(rules)].concat());
    }
    line + " restored"
}

/// Data alone goes where the definitions are. Triggers would fire, and foreign keys fail where the
/// order of tables does not suit them.
fn into_definitions(unpack: &str, is_script: bool) -> [String; 6] {
    let restore = if is_script {
        let psql = restore_into("restored", true);
        format!("{unpack} | PGOPTIONS='--session_replication_role=replica' {psql}")
    } else {
        let options = "--data-only --disable-triggers --exit-on-error --no-password";
        format!("{unpack} | pg_restore {options} --dbname=restored")
    };
    [
        "# 3. It holds data only: `restored` has to have the definitions, and no rows.".to_owned(),
        "# 4. Restore without triggers, which takes a superuser, and stop at the first error."
            .to_owned(),
        restore,
        "#    Materialized views are filled anew.".to_owned(),
        REFRESH.to_owned(),
        "vacuumdb --analyze-in-stages --dbname=restored".to_owned(),
    ]
}

/// Fit for a comment: a name may hold a line end.
fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

fn for_globals(about: &About<'_>) -> Vec<String> {
    let recipients = about.recipients;
    let names: Vec<String> = about.files.iter().map(|file| file.object.name.clone()).collect();
    let mut lines = vec![
        "# Roles, tablespaces and their settings. Read it before you run it: it changes the whole cluster.".to_owned(),
    ];
    lines.extend(key_note(recipients));
    lines.extend([
        format!("sha256sum {}", quoted(&[about.volumes, &names].concat())),
        format!(
            "{} | psql --no-psqlrc --set=ON_ERROR_STOP=0 --dbname=postgres",
            unpack(about.volumes, recipients)
        ),
        "# ON_ERROR_STOP=0: roles that exist already are errors that do not matter; read the others.".to_owned(),
    ]);
    let one = |name: &String| unpack(std::slice::from_ref(name), recipients);
    let (databases, configuration): (Vec<_>, Vec<_>) =
        names.iter().partition(|name| name.starts_with("databases.sql"));
    for name in databases {
        lines.extend([
            "# On a new server: every database, empty, with owner, locale, settings and grants.".to_owned(),
            format!("{} | {WRITABLE} psql --no-psqlrc --set=ON_ERROR_STOP=1 --dbname=postgres", one(name)),
            "# Then restore each into the one of its name; the manifest of its backup has the line.".to_owned(),
        ]);
    }
    if !configuration.is_empty() {
        lines.push("# How the server was configured. Compare with the new one before you take anything over: paths and memory are the old machine's.".to_owned());
    }
    for file in about.files.iter().filter(|file| configuration.contains(&&file.object.name)) {
        if let Some(path) = &file.path {
            lines.push(format!("# {}:", one_line(path)));
        }
        lines.push(one(&file.object.name));
    }
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
        let nobody = Recipients::default();
        let of = |recipients| {
            let about = About {
                database: None,
                scope: None,
                is_script: true,
                volumes: &volumes,
                files: &[],
                tool_major: 15,
                recipients,
            };
            lines(&about).join("\n")
        };
        let lines = of(&somebody);
        let step = "cat g.sql.zst.age g.sql.zst.age.001 | age -d -i KEYFILE | zstd -dc | psql";
        assert!(lines.contains(step) && lines.contains("secret key of: age1x."), "{lines}");
        let lines = of(&nobody);
        assert!(!lines.contains("age -d") && !lines.contains("KEYFILE"), "{lines}");
    }
}
