//! `serial:/PATH?baud=19200&parity=even`: a serial line and how it is spoken on.

use std::{fmt, path::PathBuf};

/// A serial line of this device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SerialLine {
    /// The kernel's name for it.
    pub path: PathBuf,
    /// Bits in a second, one of [`SerialLine::BAUDS`].
    pub baud: u32,
    /// Bits in a character, 5 to 8.
    pub data: u8,
    /// The bit behind them.
    pub parity: Parity,
    /// Stop bits, 1 or 2.
    pub stop: u8,
    /// How either side says that it can take no more.
    pub flow: Flow,
}

/// `parity`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Parity {
    /// No such bit.
    #[default]
    None,
    /// It makes the number of ones even.
    Even,
    /// It makes the number of ones odd.
    Odd,
}

/// `flow`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Flow {
    /// Nobody says anything.
    #[default]
    None,
    /// By the lines RTS and CTS.
    Hardware,
    /// By the characters XON and XOFF, which then can't be data.
    Software,
}

impl SerialLine {
    /// Rates that every Linux knows by name.
    pub const BAUDS: [u32; 20] = [
        300, 600, 1200, 1800, 2400, 4800, 9600, 19_200, 38_400, 57_600, 115_200, 230_400, 460_800, 500_000, 576_000,
        921_600, 1_000_000, 1_500_000, 2_000_000, 3_000_000,
    ];

    /// Reads what stands behind `serial:`; `None` if it is not as [`Target::EXPECTED`] says, or names a rate
    /// that is none.
    ///
    /// [`Target::EXPECTED`]: super::Target::EXPECTED
    pub(super) fn parse(text: &str) -> Option<SerialLine> {
        let (path, settings) = text.split_once('?').unwrap_or((text, ""));
        if !path.starts_with('/') || path.contains('\0') {
            return None;
        }
        let mut line = SerialLine {
            path: PathBuf::from(path),
            baud: 9600,
            data: 8,
            parity: Parity::None,
            stop: 1,
            flow: Flow::None,
        };
        let mut seen = Vec::new();
        for setting in settings.split('&').filter(|_| !settings.is_empty()) {
            let (key, value) = setting.split_once('=')?;
            if seen.contains(&key) {
                return None;
            }
            seen.push(key);
            match (key, value) {
                ("baud", rate) => line.baud = SerialLine::BAUDS.into_iter().find(|known| known.to_string() == rate)?,
                ("data", "5" | "6" | "7" | "8") => line.data = value.parse().ok()?,
                ("parity", "none") => line.parity = Parity::None,
                ("parity", "even") => line.parity = Parity::Even,
                ("parity", "odd") => line.parity = Parity::Odd,
                ("stop", "1" | "2") => line.stop = value.parse().ok()?,
                ("flow", "none") => line.flow = Flow::None,
                ("flow", "hardware") => line.flow = Flow::Hardware,
                ("flow", "software") => line.flow = Flow::Software,
                _ => return None,
            }
        }
        Some(line)
    }
}

/// As people write it: `/dev/ttyS1 (19200 8E1)`.
impl fmt::Display for SerialLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parity = match self.parity {
            Parity::None => 'N',
            Parity::Even => 'E',
            Parity::Odd => 'O',
        };
        write!(f, "{} ({} {}{parity}{})", self.path.display(), self.baud, self.data, self.stop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_defaults_and_any_order() {
        let line = SerialLine::parse("/dev/ttyS1").unwrap();
        assert_eq!(line.to_string(), "/dev/ttyS1 (9600 8N1)");
        assert_eq!(line.flow, Flow::None);
        let line = SerialLine::parse("/dev/ttyS1?parity=even&baud=19200").unwrap();
        assert_eq!(line.to_string(), "/dev/ttyS1 (19200 8E1)");
        let line = SerialLine::parse("/dev/x?flow=hardware&stop=2&parity=odd&data=7&baud=115200").unwrap();
        assert_eq!((line.to_string().as_str(), line.flow), ("/dev/x (115200 7O2)", Flow::Hardware));
    }

    #[test]
    fn what_is_none() {
        for text in [
            "",
            "ttyS1",
            "/dev/tty\0",
            "/dev/ttyS1?",
            "/dev/ttyS1?baud",
            "/dev/ttyS1?baud=",
            "/dev/ttyS1?baud=9601",
            "/dev/ttyS1?baud=+9600",
            "/dev/ttyS1?data=9",
            "/dev/ttyS1?stop=0",
            "/dev/ttyS1?parity=mark",
            "/dev/ttyS1?flow=rts",
            "/dev/ttyS1?speed=9600",
            "/dev/ttyS1?baud=9600&baud=9600",
            "/dev/ttyS1?baud=9600&",
        ] {
            let is_default = text.ends_with('?');
            assert_eq!(SerialLine::parse(text).is_some(), is_default, "{text:?}");
        }
    }
}
