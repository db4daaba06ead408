"""The rules of the game: functions of arrays over environments. They know no network and no torch."""
