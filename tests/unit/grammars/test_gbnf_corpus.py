"""A corpus of GBNF grammars, each with texts that it allows and texts that it does not allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

Language = Callable[[str, str], Callable[[str], bool]]


@dataclass(frozen=True)
class Example:
    grammar: str
    allowed: tuple[str, ...]
    refused: tuple[str, ...]


CORPUS = {
    "json": Example(
        r"""
        # JSON, similar to the grammar in llama.cpp's README
        root   ::= ws value ws
        value  ::= object | array | string | number | ("true" | "false" | "null")
        object ::= "{" ws ( member ("," ws member)* )? "}"
        member ::= string ws ":" ws value ws
        array  ::= "[" ws (
                     value ws            # comments may stand within parentheses
                     ("," ws value ws)*
                   )? "]"
        string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}) )* "\""
        number ::= "-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]+)? ([eE] [-+]? [0-9]+)?
        ws     ::= | " " | "\n" [ \t]{0,20}
        """,
        ("{}", "[1, -2.5e+3]", '{"a": [true, null], "é\\u00e9\\n": {}}', '"❤"', "0", '[\n  "x"\n]'),
        ("{", "[1,]", '{"a"}', "01", '"\n"', '"\\x"', "tru", '{"a":1"b":2}'),
    ),
    "arithmetic": Example(
        r"""
        root  ::= (expr "=" ws term "\n")+
        expr  ::= term ([-+*/] term)*
        term  ::= ident | num | "(" ws expr ")" ws
        ident ::= [a-z] [a-z0-9_]* ws
        num   ::= [0-9]+ ws
        ws    ::= [ \t\n]*
        """,
        ("1+1=2\n", "a *(b_1 -3)= c\nx=y\n"),
        ("1+=2\n", "(a=b\n", "1=1", "A=1\n"),
    ),
    "chess": Example(
        r"""
        root    ::= "1. " move " " move "\n" ([1-9] [0-9]? ". " move " " move "\n")*
        move    ::= (pawn | nonpawn | castle) [+#]?
        nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
        pawn    ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
        castle  ::= "O-O" "-O"?
        """,
        ("1. e4 e5\n", "1. e4 e5\n2. Nf3 Nc6\n3. Bb5 a6\n", "1. exd5 O-O-O+\n12. Qh4xe1# b8=Q\n"),
        ("1. e9 e5\n", "e4 e5\n", "1. e4\n", "1. O-O-O-O e5\n"),
    ),
    "list": Example(
        'root ::= item{2,4}\n\nitem ::= "- " [^\\r\\n\\x0b\\x0c\\x85\\u2028\\u2029]+ "\\n"',
        ("- a\n- b b\n", "- é\n- ❤\n- x\n- y\n"),
        ("- a\n", "-a\n- b\n", "- a\n" * 5, "- \n- b\n", "- a\u2028\n- b\n"),
    ),
    "c": Example(
        r"""
        root        ::= declaration*
        declaration ::= type ws identifier "(" parameter? ")" ws? "{" statement* "}"
        type        ::= "int" | "float" | "char"
        identifier  ::= [a-zA-Z_] [a-zA-Z_0-9]*
        parameter   ::= type ws identifier
        statement   ::= (
            (type ws identifier ws "=" ws expression ";") |
            ("return" ws expression ";") |
            ("while" "(" condition ")" "{" statement* "}")
        )
        condition   ::= expression ("==" | "<" | ">=") expression
        expression  ::= term (("+" | "-") term)*
        term        ::= factor (("*" | "/") factor)*
        factor      ::= identifier | number | "(" expression ")"
        number      ::= [0-9]+
        ws          ::= " "+
        """,
        ("", "int f(int x){return x*(2+y);}", "char g(){while(a<b){int z = 1;}return 0;}"),
        ("int f(int){}", "void f(){}", "int f(){return;}", "int f(){while(a){}}"),
    ),
    "japanese": Example(
        r"""
        root     ::= jp-char+ ([ \t\n] jp-char+)*
        jp-char  ::= hiragana | katakana | punctuation | cjk
        hiragana ::= [ぁ-ゟ]
        katakana ::= [\u30A1-\u30FF]
        punctuation ::= [、-〾]
        cjk      ::= [\u4e00-\U00009FFF]
        """,
        ("ひらがな", "カタカナ 漢字、", "日本"),
        ("kana", "ひ  ら", "", "한글"),
    ),
    "repetitions": Example(
        'root ::= "a"{2} "b"{1,3} [c-e]{0,1} ("f" "g"){,2} .{2,}',
        ("aabxy", "aabbbdfgfg..", "aabc❤❤"),
        ("aab", "abxy", "a", "aabc"),
    ),
    "a repetition applies to the whole literal": Example('root ::= "ab"+ "c"', ("abc", "ababc"), ("abbc", "c")),
    "escapes": Example(
        r"""root ::= "\x41\u00e9\U0001F600\n\t\\\"" [\x30-\x39\]\\\-^]+ [^\]\n]""",
        ('Aé😀\n\t\\"7]\\-^x', 'Aé😀\n\t\\"0a'),
        ('Aé😀\n\t\\"a', 'Aé😁\n\t\\"7x', 'Aé😀\n\t\\"7]'),
    ),
    "negated": Example("root ::= [^a-z0-9] [^]", ("Aa", "é\n", "❤❤"), ("a", "aa", "A", "7x")),
    "special characters in a class": Example(
        'root ::= [-a.()|*"#+] [a-]', ("--", ".a", "#-", '"a', "|-"), ("b-", "-b", "[-")
    ),
    "alternatives on several lines": Example(
        'root ::=\n  "x" |\n  "y" "z"? |\n\n  # nothing\n  other\nother ::= "w"', ("x", "y", "yz", "w"), ("", "z", "xz")
    ),
    "right recursion": Example('root ::= "a" root | "b"', ("b", "aaab"), ("a", "ba", "")),
    "central recursion": Example('root ::= "(" root? ")" root?', ("()", "(())()"), ("(", ")(", "")),
    "ambiguous": Example('root ::= a a\na ::= "x"* | "x"? "x"', ("", "x", "xxxxx"), ("y", "xy")),
    "empty alternatives": Example('root ::= ("a" | ) (| "b") "c"', ("c", "ac", "abc"), ("ab", "cc")),
    "names": Example('root ::= a-1 B2-\na-1 ::= "x"\nB2- ::= "y"', ("xy",), ("x",)),
    "Windows line ends": Example('root ::= a\r\n\r\na ::= "x" |\r\n "y"\r\n', ("x", "y"), ("xy",)),
    "comments everywhere": Example('# one\nroot ::= "#" a # two\n# three\na ::= ( # four\n"b" )#', ("#b",), ("#", "b")),
}


@pytest.mark.inventory("G-01", "E-032", "C-093")
@pytest.mark.parametrize("name", CORPUS)
def test_a_grammar_allows_its_texts_and_no_others(language: Language, name: str) -> None:
    example = CORPUS[name]
    matches = language("gbnf", example.grammar)
    texts = [*example.allowed, *example.refused]
    assert [text for text in texts if matches(text)] == list(example.allowed)
