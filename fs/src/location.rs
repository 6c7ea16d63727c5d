//! `HOST[:PORT][/PATH]`: a server, and a volume or folder there.

use std::fmt;

use lacuna_transport::path::NodePath;

/// The port of a bare HOST, over UDP.
pub const DEFAULT_PORT: u16 = 7117;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// Name or address, lower case, without brackets.
    pub host: String,
    pub port: u16,
    pub path: NodePath,
}

impl Location {
    /// Parses what a user wrote; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (server, path) = text.split_once('/').unwrap_or((text, ""));
        let path = NodePath::parse(path.as_bytes()).map_err(|error| format!("'{text}': {error}"))?;
        let bad = |why: &str| Err(format!("'{text}' is not HOST[:PORT][/PATH]: {why}"));
        let (host, port) = if let Some(rest) = server.strip_prefix('[') {
            match rest.split_once(']') {
                Some((host, "")) => (host, None),
                Some((host, rest)) => match rest.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None => return bad("after ']' comes ':PORT' or nothing"),
                },
                None => return bad("there is no ']'"),
            }
        } else {
            match server.split_once(':') {
                Some((_, port)) if port.contains(':') => {
                    return bad("write an IPv6 address as [ADDRESS]:PORT");
                }
                Some((host, port)) => (host, Some(port)),
                None => (server, None),
            }
        };
        if host.is_empty() || host.contains(char::is_whitespace) {
            return bad("there is no host");
        }
        let port = match port.map(str::parse::<u16>) {
            None => DEFAULT_PORT,
            Some(Ok(port)) if port > 0 => port,
            Some(_) => return bad("a port is a number from 1 to 65535"),
        };
        Ok(Self {
            host: host.to_lowercase(),
            port,
            path,
        })
    }

    /// `HOST:PORT`, as in the list of trusted servers.
    pub fn server(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.server(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_parses() {
        let parse = |text| Location::parse(text).map(|location| location.to_string());
        assert_eq!(parse("host").unwrap(), "host:7117/");
        assert_eq!(parse("Host:1/a//b/").unwrap(), "host:1/a/b");
        assert_eq!(parse("[::1]/v").unwrap(), "[::1]:7117/v");
        assert_eq!(parse("[fe80::1]:99").unwrap(), "[fe80::1]:99/");
    }

    #[test]
    fn what_is_not_a_location_is_refused() {
        for bad in [
            "", ":1", "h:", "h:0", "h:70000", "::1", "[::1", "[::1]x", "h/../x", "a b", "/v",
        ] {
            assert!(Location::parse(bad).is_err(), "{bad:?} was taken");
        }
    }
}
