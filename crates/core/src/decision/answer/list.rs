//! The headers of an answer: where they are written, and a list of them in two allocations.

/// A destination of headers, one after the other: a list, or the message to a proxy.
pub trait HeaderSink {
    /// Adds a header whose value `write` appends: printable ASCII.
    fn header(&mut self, name: &'static str, write: impl FnOnce(&mut Vec<u8>));

    /// Adds a header with a text.
    fn text(&mut self, name: &'static str, value: &str) {
        self.header(name, |text| text.extend_from_slice(value.as_bytes()));
    }

    /// Adds a header with a number.
    fn number(&mut self, name: &'static str, number: u64) {
        self.header(name, |text| push_number(text, number));
    }
}

/// A list of headers: static names, and the values one after the other in one text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderList {
    /// Each name, with the end of its value.
    names: Vec<(&'static str, usize)>,
    text: Vec<u8>,
}

impl HeaderList {
    /// An empty list with room for some headers.
    pub(super) fn with_capacity(headers: usize) -> Self {
        Self { names: Vec::with_capacity(headers), text: Vec::with_capacity(headers * 32) }
    }

    /// The headers that `write` adds.
    pub fn of(write: impl FnOnce(&mut Self)) -> Self {
        let mut list = Self::with_capacity(8);
        write(&mut list);
        list
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.bytes().map(|(name, value)| (name, std::str::from_utf8(value).unwrap_or_default()))
    }

    /// Names and values in bytes, in order.
    pub fn bytes(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        self.names.iter().scan(0, |from, (name, end)| {
            let value = self.text.get(*from..*end).unwrap_or_default();
            *from = *end;
            Some((*name, value))
        })
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.names.iter().map(|(name, _)| *name)
    }

    /// The number of headers.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

impl HeaderSink for HeaderList {
    fn header(&mut self, name: &'static str, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.text);
        self.names.push((name, self.text.len()));
    }
}

/// Appends decimal digits. An answer has a dozen numbers, and a formatter takes longer to set up than
/// to run.
pub(super) fn push_number(text: &mut Vec<u8>, number: u64) {
    text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

impl FromIterator<(&'static str, String)> for HeaderList {
    fn from_iter<I: IntoIterator<Item = (&'static str, String)>>(headers: I) -> Self {
        let mut list = Self::default();
        headers.into_iter().for_each(|(name, value)| list.text(name, &value));
        list
    }
}
