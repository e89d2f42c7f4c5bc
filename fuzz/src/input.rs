//! An input as a sequence of small choices. An input that has ended goes on as zeroes.

/// Reads choices from the front of an input.
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Input { rest: data }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let len = N.min(self.rest.len());
        taken[..len].copy_from_slice(&self.rest[..len]);
        self.rest = &self.rest[len..];
        taken
    }

    pub fn byte(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    /// A number: a remarkable one, or small, or any.
    pub fn number(&mut self) -> u64 {
        const REMARKABLE: [u64; 24] = [
            0,
            1,
            63,
            64,
            0xFF,
            512,
            4096,
            0xFFFF,
            1 << 20,
            1 << 31,
            (1 << 31) - 1,
            u32::MAX as u64,
            1 << 32,
            (1 << 40) - 1,
            1 << 40,
            1 << 41,
            (1 << 41) * 8 - 8,
            1 << 44,
            1 << 58,
            1 << 62,
            i64::MAX as u64,
            1 << 63,
            u64::MAX - 1,
            u64::MAX,
        ];
        match self.byte() {
            choice @ 0..24 => REMARKABLE[usize::from(choice)],
            choice @ 24..160 => u64::from(choice) - 24,
            160..208 => u64::from(self.u16()),
            208..232 => u64::from(u32::from_le_bytes(self.take())),
            _ => u64::from_le_bytes(self.take()),
        }
    }
}
