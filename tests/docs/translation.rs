//! The Chinese front page says what the English one says.

use super::{block::blocks, links::links, page};

/// What two pages of the same content have in common: headings by level, blocks without comments, links, and the cells of tables.
#[derive(Debug, PartialEq, Eq)]
struct Shape {
    headings: Vec<usize>,
    blocks: Vec<(String, Vec<String>)>,
    links: Vec<String>,
    tables: Vec<usize>,
    code: Vec<String>,
}

fn shape(name: &str) -> Shape {
    let text = page(name);
    let mut prose = String::new();
    let mut fenced = false;
    for line in text.lines() {
        let fence = line.starts_with("```");
        fenced ^= fence;
        if !fenced && !fence {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    let bare = |line: &str| line.split(" #").next().unwrap().trim_end().to_owned();
    let code = |line: &str| -> Vec<String> {
        line.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let rows: Vec<&str> = prose.lines().filter(|line| line.starts_with('|')).collect();
    Shape {
        headings: prose
            .lines()
            .filter(|line| line.starts_with('#'))
            .map(|line| line.chars().take_while(|c| *c == '#').count())
            .collect(),
        blocks: blocks(name, &text)
            .into_iter()
            .map(|block| {
                (
                    block.info.clone(),
                    block.text.lines().map(bare).filter(|line| !line.is_empty()).collect(),
                )
            })
            .collect(),
        // Each names the other.
        links: links(&prose).into_iter().filter(|link| !link.starts_with("README")).collect(),
        tables: rows.iter().map(|row| row.matches('|').count()).collect(),
        code: rows.iter().flat_map(|row| code(row)).collect(),
    }
}

#[test]
fn the_chinese_front_page_is_in_step() {
    let (english, chinese) = (shape("README.md"), shape("README.zh-CN.md"));
    assert_eq!(english.headings, chinese.headings, "headings");
    assert_eq!(english.blocks, chinese.blocks, "blocks");
    assert_eq!(english.links, chinese.links, "links");
    assert_eq!(english.tables, chinese.tables, "rows of tables");
    assert_eq!(english.code, chinese.code, "code in tables");
    assert!(
        page("README.md").contains("](README.zh-CN.md)")
            && page("README.zh-CN.md").contains("](README.md)")
    );
}
