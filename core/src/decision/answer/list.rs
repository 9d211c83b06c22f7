//! Headers of an answer, in two allocations however many they are.

/// A list of headers: names that are known here, and values one after the other in one piece of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderList {
    /// Each name, and where its value ends.
    names: Vec<(&'static str, usize)>,
    text: String,
}

impl HeaderList {
    /// An empty list with room for so many headers of some length.
    pub(super) fn with_capacity(headers: usize) -> Self {
        Self { names: Vec::with_capacity(headers), text: String::with_capacity(headers * 32) }
    }

    /// Adds a header.
    pub(super) fn push(&mut self, name: &'static str, value: &str) {
        self.text.push_str(value);
        self.names.push((name, self.text.len()));
    }

    /// Adds a header whose value is a number.
    pub(super) fn number(&mut self, name: &'static str, number: u64) {
        self.with(name, |text| push_number(text, number));
    }

    /// Adds a header whose value `write` appends.
    pub(super) fn with(&mut self, name: &'static str, write: impl FnOnce(&mut String)) {
        write(&mut self.text);
        self.names.push((name, self.text.len()));
    }

    /// Whether a header of this name (lower case) is in the list.
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|(known, _)| *known == name)
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.names.iter().scan(0, |from, (name, end)| {
            let value = self.text.get(*from..*end).unwrap_or_default();
            *from = *end;
            Some((*name, value))
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

/// Appends decimal digits: a dozen numbers stand in every answer, and a formatter takes longer to set up than to run.
pub(super) fn push_number(text: &mut String, mut number: u64) {
    let mut digits = [0; 20];
    let mut from = digits.len();
    for digit in digits.iter_mut().rev() {
        let [last, ..] = (number % 10).to_le_bytes();
        *digit = b'0' + last;
        from -= 1;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    // Digits are ASCII, so neither of these fails.
    let digits = digits.get(from..).and_then(|digits| std::str::from_utf8(digits).ok());
    text.push_str(digits.unwrap_or_default());
}

impl FromIterator<(&'static str, String)> for HeaderList {
    fn from_iter<I: IntoIterator<Item = (&'static str, String)>>(headers: I) -> Self {
        let mut list = Self::default();
        headers.into_iter().for_each(|(name, value)| list.push(name, &value));
        list
    }
}
