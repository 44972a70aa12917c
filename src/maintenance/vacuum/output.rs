//! What the server said, kept within bounds.

use crate::postgres::notice::Notice;

/// Lines kept of one table, of one database, and bytes of a line.
const OF_TABLE: usize = 40;
const OF_DATABASE: usize = 1000;
const OF_LINE: usize = 300;

/// Lines for the report.
#[derive(Debug, Default)]
pub(super) struct Output {
    lines: Vec<String>,
    lost: usize,
}

impl Output {
    /// One line of our own.
    pub(super) fn say(&mut self, line: &str) {
        if self.lines.len() < OF_DATABASE {
            self.lines.push(line[..line.floor_char_boundary(OF_LINE)].to_owned());
        } else {
            self.lost += 1;
        }
    }

    /// What the server said of one table.
    pub(super) fn hear(&mut self, said: &[Notice]) {
        let mut lines = said.iter().flat_map(Notice::lines);
        for line in lines.by_ref().take(OF_TABLE) {
            self.say(&line);
        }
        self.lost += lines.count();
    }

    /// The lines; the last one says how many there are not.
    pub(super) fn into_lines(mut self) -> Vec<String> {
        if self.lost > 0 {
            self.lines.push(format!("({} more lines)", self.lost));
        }
        self.lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::notice::Level;

    #[test]
    fn it_is_bounded() {
        let notice = Notice {
            severity: Level::Info,
            sqlstate: "00000".to_owned(),
            message: "é".repeat(OF_LINE),
            detail: Some("x\n".repeat(OF_TABLE)),
        };
        let mut output = Output::default();
        for _ in 0..OF_DATABASE {
            output.hear(std::slice::from_ref(&notice));
        }
        let lines = output.into_lines();
        assert_eq!(lines.len(), OF_DATABASE + 1);
        assert!(lines.iter().all(|line| line.len() <= OF_LINE));
        let all = OF_DATABASE * (OF_TABLE + 1);
        assert_eq!(lines[OF_DATABASE], format!("({} more lines)", all - OF_DATABASE));
    }
}
