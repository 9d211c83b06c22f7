//! Fenced blocks and what their info strings say.

/// What a block is, and so what is done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `text`, `logql`: neither a command nor a configuration.
    Text,
    /// `json`: read as JSON.
    Json,
    /// `yaml config`, or `yaml config FILE`, which commands on the same page then find: a whole configuration of Tollgate, through
    /// `check-config`.
    Config(Option<String>),
    /// `yaml part`: sections of one, through `check-config` with an issuer, a limit and a route where it has none.
    Part,
    /// `yaml entries`: entries of `routes`, checked as such.
    Entries,
    /// `yaml route`: keys of one entry, checked as such.
    Route,
    /// `yaml cases`: through `explain --case`.
    Cases,
    /// `yaml envoy`: a whole configuration of Envoy, through `envoy --mode validate`.
    Envoy,
    /// `yaml envoy http`, `route`, `listener` or `cluster`: keys of the connection manager, routes, listeners, clusters, checked in
    /// the shipped configuration.
    EnvoyPart(EnvoyPlace),
    /// `yaml values FILE`: values of the chart, which the commands on the page use; tests/deploy renders them.
    Values,
    /// `yaml template`: lines of a Helm template in `deploy/`.
    Template,
    /// `yaml manifest`: Kubernetes objects.
    Manifest,
    /// `yaml prometheus`: a configuration of Prometheus, through `promtool check config`.
    Prometheus,
    /// `sh`: commands that are run, one after the other, and succeed.
    Commands,
    /// `console`: commands after `$ `, which are run, and what they print.
    Console,
    /// `python`: a program of a client, which is run behind Envoy with a key in `$KEY` and prints what the block of text after it has.
    Python,
    /// `sh make`: targets of the Makefile.
    Make,
    /// `sh cluster`: needs a Kubernetes cluster; the files it names exist.
    Cluster,
    /// `sh elsewhere`: needs what is not here; the commands of Tollgate's exist as written, and so do the files.
    Elsewhere,
}

/// Where a part of Envoy's configuration belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EnvoyPlace {
    /// The HTTP connection manager's keys.
    Http,
    /// Its routes, the first of them.
    Route,
    /// The list of listeners.
    Listener,
    /// The list of clusters.
    Cluster,
}

/// A fenced block.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// The page and the line, for messages.
    pub(super) place: String,
    /// The info string.
    pub(super) info: String,
    pub(super) text: String,
}

/// All blocks of a page.
pub(super) fn blocks(page: &str, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<(Block, String)> = None;
    for (number, line) in text.lines().enumerate() {
        let bare = line.trim_start();
        match &mut open {
            None if bare.starts_with("```") => {
                let fence: String = bare.chars().take_while(|c| *c == '`').collect();
                let info = bare[fence.len()..].trim().to_owned();
                open = Some((
                    Block { place: format!("{page}:{}", number + 1), info, text: String::new() },
                    fence,
                ));
            }
            None => {}
            Some((block, fence)) if bare.trim_end() == *fence => {
                blocks.push(block.clone());
                open = None;
            }
            Some((block, _)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
        }
    }
    assert!(open.is_none(), "{page}: a block is not closed");
    blocks
}

impl Block {
    /// What the info string says it is.
    pub(super) fn kind(&self) -> Option<Kind> {
        let words: Vec<&str> = self.info.split_whitespace().collect();
        Some(match words.as_slice() {
            // Queries are for servers that are not here.
            ["text" | "logql"] => Kind::Text,
            ["json"] => Kind::Json,
            ["yaml", "config"] => Kind::Config(None),
            ["yaml", "config", file] => Kind::Config(Some((*file).to_owned())),
            ["yaml", "part"] => Kind::Part,
            ["yaml", "entries"] => Kind::Entries,
            ["yaml", "route"] => Kind::Route,
            ["yaml", "cases"] => Kind::Cases,
            ["yaml", "envoy"] => Kind::Envoy,
            ["yaml", "envoy", "http"] => Kind::EnvoyPart(EnvoyPlace::Http),
            ["yaml", "envoy", "route"] => Kind::EnvoyPart(EnvoyPlace::Route),
            ["yaml", "envoy", "listener"] => Kind::EnvoyPart(EnvoyPlace::Listener),
            ["yaml", "envoy", "cluster"] => Kind::EnvoyPart(EnvoyPlace::Cluster),
            ["yaml", "values", _file] => Kind::Values,
            ["yaml", "template"] => Kind::Template,
            ["yaml", "manifest"] => Kind::Manifest,
            ["yaml", "prometheus"] => Kind::Prometheus,
            ["sh"] => Kind::Commands,
            ["console"] => Kind::Console,
            ["python"] => Kind::Python,
            ["sh", "make"] => Kind::Make,
            ["sh", "cluster"] => Kind::Cluster,
            ["sh", "elsewhere"] => Kind::Elsewhere,
            _ => return None,
        })
    }

    /// The commands, each with what is printed after it (nothing, in a block of commands only). A line that ends with `\` goes on.
    pub(super) fn commands(&self) -> Vec<(String, Vec<String>)> {
        let console = self.kind() == Some(Kind::Console);
        let mut commands: Vec<(String, Vec<String>)> = Vec::new();
        let mut goes_on = false;
        for line in self.text.lines() {
            let command = if console { line.strip_prefix("$ ") } else { Some(line.trim()) };
            match (goes_on, command, commands.last_mut()) {
                (true, _, Some((last, _))) => last.push_str(line.trim()),
                (false, Some(command), _) if !command.is_empty() && !command.starts_with('#') => {
                    commands.push((command.to_owned(), Vec::new()));
                }
                (false, None, Some((_, printed))) => printed.push(line.to_owned()),
                _ => continue,
            }
            let Some((last, _)) = commands.last_mut() else { continue };
            goes_on = (goes_on || command.is_some()) && last.ends_with('\\');
            if goes_on {
                last.pop();
            }
        }
        commands
    }
}
