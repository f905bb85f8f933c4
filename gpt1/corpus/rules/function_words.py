"""The most frequent function words of English, and of other languages without the words that
English has too.
"""

from __future__ import annotations

_ENGLISH = (
    "the of and to a in that he was it his i is with as had for at you on her not be but she him by"
    " they have which from this all my me or were so no said there we one an what are when if been"
    " who up would out them their will do then more into some could now has like man did than your"
    " its any very about over only our other such how after before us these upon through down well"
    " good made where every never can little must own should may shall might thy thou thee ye hath"
    " unto "
)
ENGLISH = frozenset(_ENGLISH.split())
"""About a hundred; with the pronouns and forms of older English."""

_OTHERS = {
    "Czech": (
        "a se na je že v z s do by ale jako za to co tak jsem když jeho už byl jen nebo podle při"
        " není pro který však"
    ),
    "Danish": (
        "og i at det er en til på som på han af for den de med var ikke et jeg der har kan skal vil"
        " også efter men hun blev"
    ),
    "Dutch": (
        "de het een van en in is dat op te niet zijn met voor hij er maar om hem dan zou wat mijn"
        " ze uit aan bij ook als nog"
    ),
    "Finnish": (
        "ja on ei se että hän oli joka mutta niin kun kuin myös ovat mitä tämä sen siitä hänen minä"
        " ole vain jos sitten"
    ),
    "French": (
        "le la les de des et un une il elle que qui dans pour pas ne ce se au du est sur avec plus"
        " je vous nous son sa mais"
    ),
    "German": (
        "der die das und ist nicht zu den mit sich auf für er sie es ein eine dem des im auch als"
        " wie aber ich noch nach von"
    ),
    "Hungarian": (
        "a az és hogy nem egy is ez meg de csak volt mint már még van azt ki mert ha el minden vagy"
        " sem nagy lett itt fel"
    ),
    "Italian": (
        "il la di che e un una per non in con del si le dei da al come più ma sono della nel lo gli"
        " era mi suo anche alla"
    ),
    "Latin": (
        "et in non est ut cum ad quod qui quae sed si ab ex nec atque hoc tibi mihi quam ac iam"
        " nunc enim esse aut sunt te se"
    ),
    "Polish": (
        "w i z na do to się nie że jest jak o po za ale od tak był co dla czy przez tylko przy jego"
        " już może tym które jej"
    ),
    "Portuguese": (
        "o a de que e do da em um uma para com não os as no na por mais se como mas ao ele seu sua"
        " dos das foi era"
    ),
    "Spanish": (
        "el la de que y en un una los las por con no para se del al lo como más su pero sus le ya"
        " este sí porque era muy"
    ),
    "Swedish": (
        "och att det i en som på är av för med den till inte han var ett om sig jag men hade de så"
        " vi hon från kan när över"
    ),
}
OTHERS = {language: frozenset(words.split()) - ENGLISH for language, words in _OTHERS.items()}
"""Thirty or so for each language in the Latin alphabet that books are likely to be in."""
