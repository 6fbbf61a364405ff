//! Choices made of bytes: the same bytes make the same choices, and none left make the first of each.

/// What is left of an input.
pub(crate) struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte, 0 when none is left.
    pub(crate) fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number below `end`, which is not 0; two bytes for ends that one does not reach.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let number = usize::from(self.next());
        let number = if end > 256 { number * 256 + usize::from(self.next()) } else { number };
        number % end
    }

    /// Whether the one of `chances` came.
    pub(crate) fn one_in(&mut self, chances: u8) -> bool {
        self.next() % chances == 1
    }

    pub(crate) fn choose<'b, T>(&mut self, from: &'b [T]) -> &'b T {
        &from[self.below(from.len())]
    }

    /// A short text of any characters.
    pub(crate) fn text(&mut self) -> String {
        let length = self.below(24).min(self.0.len());
        let (text, rest) = self.0.split_at(length);
        self.0 = rest;
        String::from_utf8_lossy(text).into_owned()
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}
