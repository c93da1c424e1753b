//! Keys and values that prove themselves: contents follow from the key's number, a version and the length.
//!
//! ```text
//! key    ┌────────┬──────────────────────────────┐
//!        │ number │ padding, 0 to 28 bytes       │
//!        └────────┴──────────────────────────────┘
//! value  ┌─────────┬────────┬────────────────────┐      values under 8 bytes: pattern alone
//!        │ version │ length │ pattern            │
//!        └─────────┴────────┴────────────────────┘
//! ```

/// A small random generator (SplitMix64, by Sebastiano Vigna): the same numbers for the same seed.
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// A length of a value, 0 to 6000: small ones, ones of a slot or two, and chained ones.
    pub fn value_len(&mut self) -> usize {
        match self.below(16) {
            0..=1 => self.below(9),
            2..=8 => self.below(300),
            9..=13 => 300 + self.below(1700),
            _ => 2000 + self.below(4001),
        }
    }
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

/// The key with this number.
pub fn key(number: u32) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.resize(4 + number as usize % 29, number as u8 ^ 0x5a);
    bytes
}

/// The number of a key that [`key`] made.
pub fn number_of(bytes: &[u8]) -> Option<u32> {
    let number = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?);
    (key(number) == bytes).then_some(number)
}

fn pattern(number: u32, version: u32) -> impl Iterator<Item = [u8; 8]> {
    let mut state = mix(u64::from(number) << 32 | u64::from(version));
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add(0x9e37_79b9);
        state.to_le_bytes()
    })
}

/// A value for the key with this number.
pub fn value(number: u32, version: u32, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    let version = if len < 8 { len as u32 } else { version };
    if len >= 8 {
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(&(len as u32).to_le_bytes());
    }
    for word in pattern(number, version).take(len.saturating_sub(bytes.len()).div_ceil(8)) {
        bytes.extend_from_slice(&word);
    }
    bytes.truncate(len);
    bytes
}

/// Panics unless `key` and `value` are whole and belong together.
pub fn check(key: &[u8], value: &[u8]) {
    let number = number_of(key).unwrap_or_else(|| panic!("no key: {key:?}"));
    let word = |at: usize| u32::from_le_bytes(value[at..at + 4].try_into().expect("four bytes"));
    let (version, rest) = if value.len() < 8 { (value.len() as u32, value) } else { (word(0), &value[8..]) };
    if value.len() >= 8 {
        assert_eq!(word(4) as usize, value.len(), "length of the value of key {number}, version {version}");
    }
    for (index, (found, expected)) in rest.chunks(8).zip(pattern(number, version)).enumerate() {
        let at = value.len() - rest.len() + index * 8;
        assert_eq!(
            found,
            &expected[..found.len()],
            "key {number}, version {version}, bytes from {at} of {}",
            value.len()
        );
    }
}
