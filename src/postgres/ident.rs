//! Names in statements: always quoted, so that no name is ever read as anything else.

/// A name as an identifier: in double quotes, with those inside it doubled. Whatever a server has
/// as a name can be written so; NUL is in none.
pub fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The name of a table, an index or the like, with its schema.
pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", quote_ident(schema), quote_ident(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_its_quotes() {
        assert_eq!(quote_ident("a"), "\"a\"");
        assert_eq!(quote_ident("A \"b\"; DROP"), "\"A \"\"b\"\"; DROP\"");
        assert_eq!(qualified("../..", "a\nb"), "\"../..\".\"a\nb\"");
    }
}
