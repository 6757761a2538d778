"""PDF files with lines of text, for tests of what reads them; see ISO 32000-1."""

from __future__ import annotations


def pdf(*pages: str, has_password: bool = False) -> bytes:
    """Return a PDF whose pages have these lines in Helvetica, in ASCII.

    With ``has_password``, no password opens the file: what it stores of the passwords are zeros.
    """
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, lines in enumerate(pages):
        resources = "/Resources << /Font << /F1 3 0 R >> >> /MediaBox [0 0 612 792]"
        objects.append(f"<< /Type /Page /Parent 2 0 R {resources} /Contents {5 + 2 * i} 0 R >>")
        shown = " T* ".join(f"({_escaped(line)}) Tj" for line in lines.split("\n"))
        content = f"BT /F1 12 Tf 14 TL 72 720 Td {shown} ET"
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
    return _file(objects, has_password)


def pdf_in_font(font: str, text: bytes) -> bytes:
    """Return a PDF with one line of text; ``font`` is the dictionary of its font, and ``text`` has the font's codes."""
    content = f"BT /F1 12 Tf 72 720 Td <{text.hex()}> Tj ET"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [4 0 R] /Count 1 >>",
        font,
        "<< /Type /Page /Parent 2 0 R /Resources << /Font << /F1 3 0 R >> >> "
        "/MediaBox [0 0 612 792] /Contents 5 0 R >>",
        f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
    ]
    return _file(objects, has_password=False)


def pdf_with_cmap(text: bytes, cmap: str, ordering: str) -> bytes:
    """Return a PDF with one line of text in a font that is not in the file, and that has no ToUnicode.

    What the codes in ``text`` mean is known only from the predefined CMap with this name, and from the character
    collection of Adobe with this ordering: ISO 32000-1, 9.7.5.2 and 9.10.2.
    """
    collection = f"<< /Registry (Adobe) /Ordering ({ordering}) /Supplement 0 >>"
    descriptor = (
        "<< /Type /FontDescriptor /FontName /Missing /Flags 4 /FontBBox [0 0 1000 1000] /ItalicAngle 0 /Ascent 800 "
        "/Descent -200 /CapHeight 700 /StemV 80 >>"
    )
    descendant = (
        f"<< /Type /Font /Subtype /CIDFontType0 /BaseFont /Missing /CIDSystemInfo {collection} "
        f"/FontDescriptor {descriptor} >>"
    )
    font = f"<< /Type /Font /Subtype /Type0 /BaseFont /Missing /Encoding /{cmap} /DescendantFonts [{descendant}] >>"
    return pdf_in_font(font, text)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")


def _file(objects: list[str], has_password: bool) -> bytes:
    """Return the file of objects, which are numbered from 1."""
    written, offsets = b"%PDF-1.4\n", []
    for i, text in enumerate(objects, 1):
        offsets.append(len(written))
        written += f"{i} 0 obj\n{text}\nendobj\n".encode("ascii")
    zeros = "00" * 32
    encryption = f"/Encrypt << /Filter /Standard /V 1 /R 2 /O <{zeros}> /U <{zeros}> /P -4 >>" if has_password else ""
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    trailer = f"<< /Size {len(objects) + 1} /Root 1 0 R {encryption} /ID [<00> <00>] >>"
    start = len(written)
    return (
        written
        + f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n{trailer}\n".encode()
        + (f"startxref\n{start}\n%%EOF\n".encode())
    )
