"""
A font of 5 by 7 dots, to draw a prompt in a picture without a library for fonts.
"""

from __future__ import annotations

import unicodedata

WIDTH = 5
HEIGHT = 7

# Seven rows of five bits for each character, in hex.
_ROWS = """
! 04040404040004 " 0A0A0000000000 # 0A0A1F0A1F0A0A $ 040F140E051E04 % 18190204081303 & 0C12140815120D ' 04040000000000
( 02040808080402 ) 08040202020408 * 0004150E150400 + 0004041F040400 , 000000000C0408 - 0000001F000000 . 00000000000C0C
/ 00010204081000 0 0E11131519110E 1 040C040404040E 2 0E11010204081F 3 1F02040201110E 4 02060A121F0202 5 1F101E0101110E
6 0608101E11110E 7 1F010204080808 8 0E11110E11110E 9 0E11110F01020C : 000C0C000C0C00 ; 000C0C000C0408 < 02040810080402
= 00001F001F0000 > 08040201020408 ? 0E110102040004 @ 0E11171517100E A 0E11111F111111 B 1E11111E11111E C 0E11101010110E
D 1E11111111111E E 1F10101E10101F F 1F10101E101010 G 0E11101711110F H 1111111F111111 I 0E04040404040E J 0702020202120C
K 11121418141211 L 1010101010101F M 111B1515111111 N 11191513111111 O 0E11111111110E P 1E11111E101010 Q 0E11111115120D
R 1E11111E141211 S 0F10100E01011E T 1F040404040404 U 1111111111110E V 11111111110A04 W 11111115151B11 X 11110A040A1111
Y 11110A04040404 Z 1F01020408101F [ 0E08080808080E \\ 00100804020100 ] 0E02020202020E ^ 040A1100000000 _ 0000000000001F
` 08040200000000 a 00000E010F110F b 10101E1111111E c 00000E1010110E d 01010F1111110F e 00000E111F100E f 06081C08080808
g 000F11110F010E h 10101619111111 i 04000C0404040E j 0200060202120C k 10101214181412 l 0C04040404040E m 00001A15151515
n 00001619111111 o 00000E1111110E p 001E11111E1010 q 000F11110F0101 r 00001619101010 s 00000F100E011E t 08081C08080906
u 0000111111130D v 00001111110A04 w 0000111515150A x 0000110A040A11 y 0011110F01110E z 00001F0204081F { 02040408040402
| 04040404040404 } 08040402040408 ~ 00000815020000
"""
_FIELDS = _ROWS.split()
_GLYPHS = {character: bytes.fromhex(rows) for character, rows in zip(_FIELDS[::2], _FIELDS[1::2], strict=True)}
_BLANK = bytes(HEIGHT)
_BOX = bytes.fromhex("1F11111111111F")


def glyph(character: str) -> bytes:
    """Return the seven rows of a character, the highest bit on the left: its letter without accents, or a box."""
    if character.isspace():
        return _BLANK
    plain = unicodedata.normalize("NFKD", character)[:1]
    return _GLYPHS.get(character) or _GLYPHS.get(plain, _BOX)


def wrap(text: str, columns: int, lines_max: int) -> list[str]:
    """Break a text into lines of at most so many characters. The last one ends with dots if there is more."""
    lines = [""]
    for word in text.split():
        while len(word) > columns:
            lines.append(word[:columns])
            word = word[columns:]
        joined = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], joined] if len(joined) <= columns else [*lines, word]
        if len(lines) > lines_max:
            break
    lines = [line for line in lines if line]
    if len(lines) > lines_max:
        lines = [*lines[: lines_max - 1], lines[lines_max - 1][: max(0, columns - 3)] + "..."]
    return lines
