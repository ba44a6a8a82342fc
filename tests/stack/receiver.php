<?php
// A receiver of VALT's upload calls, as a PHP application behind nginx sees them. It writes each chunk at its offset.
//
// What PHP does with a form that is too large is PHP's own: upload_max_filesize leaves an error in $_FILES, and
// post_max_size leaves both $_FILES and $_POST empty. STACK_WORDS says in which words that is reported. Everything is
// kept in STACK_FOLDER: for each record ID.json and, for the bytes, ID.mp4. While there is a file "hold" there, it takes
// up no last chunk. While there is a file "notice" there, it makes a mistake that PHP reports.

declare(strict_types=1);

const TOKEN = 'a-token-of-the-php-receiver';

$path = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH);
$folder = $_SERVER['STACK_FOLDER'];
$payload = json_decode(file_get_contents('php://input') ?: 'null', true) ?? [];

function answer(int $status, mixed $body): never
{
    http_response_code($status);
    header('Content-Type: application/json');
    echo $body === null ? '' : json_encode($body);
    exit;
}

function refused(int $status, string $message): never
{
    answer($status, ['data' => ['message' => $message], 'code' => $status]);
}

function not_found(): never
{
    $type = 'https://tools.ietf.org/html/rfc2616#section-10';
    answer(404, ['type' => $type, 'title' => 'An error occurred', 'status' => 404, 'detail' => 'Not Found']);
}

function of_record(string $id): array
{
    global $folder;
    $file = "$folder/$id.json";
    return is_file($file) ? json_decode(file_get_contents($file), true) : not_found();
}

function keep(array $record): void
{
    global $folder;
    $file = "$folder/{$record['id']}.json";
    file_put_contents("$file.new", json_encode($record));
    rename("$file.new", $file);
}

function entry(array $record): array
{
    $author = ['id' => 1, 'name' => 'uploader'];
    return ['id' => $record['id'], 'name' => $record['name'], 'created' => $record['created'], 'author' => $author];
}

/** Answer a chunk that PHP has not handed over, in the words of one of several applications. */
function not_transferred(?int $error): never
{
    $directive = $error === UPLOAD_ERR_INI_SIZE ? 'upload_max_filesize' : 'post_max_size';
    switch ($_SERVER['STACK_WORDS']) {
        case 'symfony':
            refused(400, $error === null ? 'This value should not be null.'
                : 'The file is too large. Allowed maximum size is ' . ini_get('upload_max_filesize') . '.');
        case 'null':
            refused(400, 'This value should not be null.');
        case 'blueimp':
            $text = "The uploaded file exceeds the $directive directive in php.ini";
            answer(200, ['files' => [['name' => 'a.mp4', 'size' => 0, 'type' => '', 'error' => $text]]]);
        default:
            refused(400, 'The chunk file was not transferred');
    }
}

function upload(string $id, string $video): never
{
    global $folder;
    $record = of_record($id);
    if ($record['video'] !== $video) {
        not_found();
    }
    $error = $_FILES['file']['error'] ?? null;
    if ($error !== UPLOAD_ERR_OK) {
        not_transferred($error);
    }
    if (!preg_match('/^bytes (\d+)-(\d+)\/(\d+)$/', $_SERVER['HTTP_CONTENT_RANGE'] ?? '', $range)) {
        refused(400, 'Invalid Content-Range header value');
    }
    [$start, $end, $total] = [(int) $range[1], (int) $range[2], (int) $range[3]];
    if ($end - $start + 1 !== $_FILES['file']['size']) {
        refused(400, 'The chunk file was not transferred');
    }
    while ($end + 1 === $total && is_file("$folder/hold")) {
        usleep(10000);
        clearstatcache();
    }
    $file = fopen("$folder/$id.mp4", 'c');
    fseek($file, $start);
    fwrite($file, file_get_contents($_FILES['file']['tmp_name']));
    fclose($file);
    $record['chunks'][] = [$start, $end + 1];
    $record['total'] = $total;
    keep($record);
    answer(201, null);
}

/** Say whether every byte has come. */
function complete(array $record): bool
{
    $filled = 0;
    sort($record['chunks']);
    foreach ($record['chunks'] as [$start, $end]) {
        $filled = $start <= $filled ? max($filled, $end) : $filled;
    }
    return $record['total'] > 0 && $filled === $record['total'];
}

if (is_file("$folder/notice")) {
    $_ = $path['nothing of this name'] ?? $undefined;
}
if ($path === '/api/v3/login') {
    $known = [$payload['username'] ?? '', $payload['password'] ?? ''] === ['uploader', 'secret'];
    $known ? answer(200, ['data' => ['access_token' => TOKEN]]) : answer(401, ['data' => 'Invalid username or password']);
}
if (($_GET['access_token'] ?? '') !== TOKEN) {
    answer(401, ['error' => ['code' => 401, 'message' => 'No API key provided']]);
}
if ($path === '/api/v3/records/create-upload') {
    $new = ['id' => bin2hex(random_bytes(16)), 'video' => bin2hex(random_bytes(16)), 'name' => $payload['name']];
    keep($new + ['created' => time(), 'chunks' => [], 'total' => 0]);
    answer(200, ['id' => $new['id'], 'videos' => [$new['video']]]);
}
if ($path === '/api/v3/records') {
    $all = array_map(fn ($file) => json_decode(file_get_contents($file), true), glob("$folder/*.json"));
    $found = array_filter($all, fn ($one) => str_contains($one['name'], $payload['search'] ?? ''));
    answer(200, ['data' => ['records' => array_map('entry', array_values($found))]]);
}
if ($path === '/api/v3/admin/general') {
    answer(200, ['data' => ['version' => '6.7.2']]);
}
if (preg_match('#^/api/v3/records/download/([0-9a-f]+)/([0-9a-f]+)$#', $path, $ids)) {
    $link = "{$_SERVER['REQUEST_SCHEME']}://{$_SERVER['HTTP_HOST']}/distribution/{$ids[1]}.mp4";
    complete(of_record($ids[1])) ? answer(200, ['url' => $link]) : not_found();
}
if (preg_match('#^/api/v3/records/([0-9a-f]+)/videos/([0-9a-f]+)$#', $path, $ids)) {
    upload($ids[1], $ids[2]);
}
if (preg_match('#^/api/v3/records/([0-9a-f]+)/delete$#', $path, $ids)) {
    of_record($ids[1]);
    array_map('unlink', glob("$folder/{$ids[1]}.*"));
    answer(200, ['data' => ['id' => $ids[1]]]);
}
if (preg_match('#^/api/v3/records/([0-9a-f]+)$#', $path, $ids)) {
    $record = of_record($ids[1]);
    $videos = complete($record) ? [['id' => $record['video'], 'status' => ['type' => 'ready']]] : null;
    answer(200, ['data' => entry($record) + ['videos' => $videos]]);
}
not_found();
