"""The text of a mail: what a reader sees, without what only tells where the mail was collected.

The corpus gives its classes away by accident. Most ham reached it through a handful of mailing lists,
whose tags, footers and advertisements would do as a label; replies carry the mails they answer, so a
test mail would repeat training mails. Both are cut here, for both classes alike.
"""

from __future__ import annotations

import re
from email import message_from_bytes
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message
from html.parser import HTMLParser

#: Characters kept of a mail: more than any model of a few hundred tokens reads.
MAX_CHARACTERS = 4000

_SUBJECT_PREFIX = re.compile(r"^\s*((re|fwd?|aw|sv)(\[\d+\])?\s*:|\[[^\]]{1,40}\])\s*", re.IGNORECASE)

# From here to the end: signatures, list footers, advertisements of list hosts, the mail that is answered.
_TAILS = re.compile(
    r"""^(
        --[ ]?$                                              # a signature; also the ILUG lists' footer
      | _{30,}\s*\n.*(mailing\ list|https?://|Do\ You\ Yahoo|MSN|Join) # Mailman; free mail hosts
      | -{40,}\s*\n\s*This\ sf\.net\ email\ is\ sponsored    # SourceForge
      | To\ unsubscribe\ from\ this\ group,                  # Yahoo! Groups
      | --DeathToSpamDeathToSpam                             # the footer of a list
      | -{2,}\s*Original\ Message\s*-{2,}
      | -----BEGIN\ PGP\ SIGNATURE-----
    )""",
    re.MULTILINE | re.IGNORECASE | re.VERBOSE,
)
_LINES = re.compile(
    r"""^(
        [ ]?[>|].*                                           # what is quoted
      | .{0,200}\b(wrote|writes|said)\s*:\s*                 # and who said it
      | .*/listinfo/.*                                       # Mailman's links
      | (URL|Date)\s*:.*                                     # the head of a news feed's mails
      | -----BEGIN\ PGP\ SIGNED\ MESSAGE-----\s*
      | Hash:\s\w+\s*
    )$""",
    re.MULTILINE | re.IGNORECASE | re.VERBOSE,
)
_SPONSOR = re.compile(r"^-+ Yahoo! Groups Sponsor -+~-->.*?^-+~->\s*$", re.MULTILINE | re.DOTALL)
# A link and an address keep the one token that the raw text has too, so that a text which was not
# cleaned does not look foreign to the model. Hosts would name the lists.
_ADDRESS = re.compile(r"(mailto:)?[\w.+=%-]+@[\w-]+(\.[\w-]+)*")
_LINK = re.compile(r"(https?|ftp)://[^\s<>\"]+|\bwww\.[^\s<>\"]+", re.IGNORECASE)
# Names that the corpus's editors put in place of real ones.
_STAND_INS = re.compile(r"\b([zZ]{4,}|[yY]{4,}|Xx{4,})\w*|\S*taint\.org\S*|\bjmason\b")


def mail_text(raw: bytes) -> str:
    """Return subject and body as plain text: the subject on the first line, if there is one.

    Args:
        raw: The mail as it came, RFC 822.

    Returns:
        At most :data:`MAX_CHARACTERS` characters; empty if nothing is left.
    """
    message = message_from_bytes(raw)
    subject = strip_subject(_header(message, "subject"))
    body = clean_body(_body(message))
    return f"{_neutral(subject)}\n{body}".strip()[:MAX_CHARACTERS].rstrip()


def thread_of(raw: bytes) -> str:
    """Return what mails of one conversation have in common: the subject's words, or nothing."""
    subject = strip_subject(_header(message_from_bytes(raw), "subject"))
    return " ".join(re.findall(r"[^\W\d_]+", subject.lower()))


def strip_subject(subject: str) -> str:
    """Cut the marks of replies, forwarded mails and lists from a subject's start, in any order."""
    while (shorter := _SUBJECT_PREFIX.sub("", subject, count=1)) != subject:
        subject = shorter
    return " ".join(subject.split())


def clean_body(text: str) -> str:
    """Cut quotes, signatures, list footers, links and addresses from a body in plain text."""
    text = text.replace("\r\n", "\n").replace("\xa0", " ")
    text = _SPONSOR.sub("", text)
    if tail := _TAILS.search(text):
        text = text[: tail.start()]
    return _neutral(_LINES.sub("", text))


def _neutral(text: str) -> str:
    """Shorten links and addresses, drop stand-in names, and put one space or line end between words."""
    text = _STAND_INS.sub("", _LINK.sub("http", _ADDRESS.sub("@", text)))
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def _header(message: Message, name: str) -> str:
    """A header, decoded as far as it can be."""
    value = message.get(name)
    try:
        return str(make_header(decode_header(str(value)))) if value is not None else ""
    except (MessageError, LookupError, ValueError):
        return str(value)


def _body(message: Message) -> str:
    """The first part in plain text that holds anything, else the first in HTML, as text."""
    html = ""
    for part in message.walk():
        if part.get_content_maintype() != "text" or part.get_content_disposition() == "attachment":
            continue
        text = _decode(part)
        if part.get_content_subtype() != "html" and not re.match(r"\s*(<!doctype|<html)", text, re.I):
            if text.strip():
                return text
        elif not html:
            html = html_to_text(text)
    return html


def _decode(part: Message) -> str:
    """A part's text; a wrong charset costs characters, never the mail."""
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes):
        return ""
    for charset in (part.get_content_charset(), "utf-8"):
        try:
            return payload.decode(charset or "ascii").replace("\0", "")
        except (LookupError, ValueError):
            continue
    return payload.decode("cp1252", errors="replace").replace("\0", "")


def html_to_text(html: str) -> str:
    """Return what a browser would show, without layout."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return "".join(reader.pieces)


class _Reader(HTMLParser):
    """Collects text, and breaks lines where blocks end."""

    _HIDDEN = frozenset({"script", "style", "head", "title"})
    _INLINE = frozenset({"a", "b", "i", "u", "em", "strong", "font", "span", "big", "small", "sup", "sub"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._hidden: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self._HIDDEN:
            self._hidden = tag
        elif tag == "body":
            self._hidden = None  # a head that is never closed
        elif tag not in self._INLINE:
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._hidden or tag == "head":
            self._hidden = None

    def handle_data(self, data: str) -> None:
        if self._hidden is None:
            self.pieces.append(" ".join(data.split(" ")) if data.strip() else " ")
