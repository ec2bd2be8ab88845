#include <catch2/catch.hpp>

#include "query.hpp"

using namespace blockattn_command;
using words = std::vector<std::string>;

TEST_CASE("a question becomes its telling words", "[app][query]") {
  CHECK(question_words("How many vacation days does an employee get?") == words{"vacation", "days", "employee"});
  CHECK(question_words("Where is the WiFi-name?") == words{"wifi", "name"});
  CHECK(question_words("ferry Ferry FERRY") == words{"ferry"});
}

TEST_CASE("a question of stop words alone keeps them", "[app][query]") {
  CHECK(question_words("Who is it?") == words{"who", "is", "it"});
}

TEST_CASE("a question without words gives none", "[app][query]") {
  CHECK(question_words("").empty());
  CHECK(question_words("?! ... --").empty());
  CHECK(match_any({}).empty());
  CHECK(match_beginnings({}).empty());
}

TEST_CASE("letters outside of ASCII stay in their word", "[app][query]") {
  CHECK(question_words("Café Müller, 北京!") == words{"café", "müller", "北京"});
  CHECK(match_beginnings({"überlegung"}) == "\"überleg\"*");
  CHECK(match_beginnings({"ééééé"}) == "\"éééé\"*");  // 10 bytes without 3: cut after the character that byte 7 is in
}

TEST_CASE("nothing of FTS5's language gets through", "[app][query]") {
  const words found =
      question_words("title: \"x\" OR body NEAR(y, 5) AND NOT -z* ^q {a b} : (col) 'it'); DROP TABLE passages;--");
  for (const std::string& word : found)
    CHECK(word.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789") == std::string::npos);
  CHECK(match_any({"near", "or"}) == "\"near\" OR \"or\"");
  CHECK(question_words(std::string("nul\0byte", 8)) == words{"nul", "byte"});
}

TEST_CASE("a very long question is cut", "[app][query]") {
  std::string question;
  for (int i = 0; i < 500; ++i) question += "word" + std::to_string(i) + " ";
  CHECK(question_words(question).size() == 64);
}

TEST_CASE("beginnings keep short words whole", "[app][query]") {
  CHECK(match_beginnings({"ferry", "observatory"}) == "\"ferry\"* OR \"observat\"*");
}
