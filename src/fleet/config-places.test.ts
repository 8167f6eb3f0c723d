import { expect, test } from 'vitest'
import { changed, parse, refusal } from '../../test/support/example-config.ts'

/** Where a configuration has things be outside of the servers: addresses, folders of archives, links between regions. */

test.each<[what: string, text: string, message: string, hint: string]>([
  [
    'an address without a port',
    changed('127.0.0.1:7400', 'localhost'),
    'holdfast.yaml:3:9: listen: is not an address',
    'write host:port, e.g. 127.0.0.1:7400',
  ],
  [
    'a port that leaves none for the gateways of the other regions',
    changed('127.0.0.1:7400', '127.0.0.1:65534'),
    'holdfast.yaml:3:9: listen: leaves no ports for the gateways of 3 regions, which listen on 65534 and those after it',
    'write a port of at most 65533, or 0',
  ],
  [
    'a webhook that is not a web address',
    changed("'http://127.0.0.1:9999/hook'", 'localhost'),
    'holdfast.yaml:24:20: outbox.webhook: is not a web address',
    'write it with its scheme, e.g. http://127.0.0.1:9999/hook',
  ],
  [
    'a webhook with a password',
    changed('http://127.0.0.1:9999/hook', 'http://payroll:secret@127.0.0.1:9999/hook'),
    'holdfast.yaml:24:20: outbox.webhook: has user info',
    'a request takes no name and no password from there, write what the receiver is to know into the path',
  ],
  [
    'a webhook with a port that no request is sent to',
    changed('127.0.0.1:9999', '127.0.0.1:6000'),
    'holdfast.yaml:24:20: outbox.webhook: has a blocked port',
    'no request is sent to the port of another protocol, write another one',
  ],
  [
    'object storage',
    changed('archive: ./archive/eu-west', 'archive: s3://bucket/prefix'),
    'holdfast.yaml:6:44: regions.eu-west.archive: is not a directory',
    'object storage is not supported yet, write a directory',
  ],
  [
    'an archive that is legal for nobody',
    changed(', archive: ./archive/us-east', ''),
    'holdfast.yaml:12:3: shards.us-east/treasury: no archive is legal for tenant initech-us, domain treasury; archives are in eu-west (EU)',
    'give region us-east an archive',
  ],
  [
    'archives of two regions in one folder',
    changed('./archive/us-east', './archive/eu-west/us'),
    'holdfast.yaml:8:44: regions.us-east.archive: the archives of us-east and eu-west lie in one folder',
    'give each region a folder of its own',
  ],
  [
    'a link to an unknown region',
    changed('eu-west~us-east: 80', 'eu-west~us-west: 80'),
    'holdfast.yaml:9:34: links.eu-west~us-west: there is no region us-west',
    'known regions are eu-west, eu-central, us-east',
  ],
  [
    'a link that is no pair',
    changed('eu-west~us-east: 80', 'eu-west: 80'),
    'holdfast.yaml:9:34: links.eu-west: is not a pair of two regions',
    'write it as eu-west~us-east',
  ],
  [
    'a link given twice',
    changed('eu-west~us-east: 80', 'eu-central~eu-west: 80'),
    'holdfast.yaml:9:34: links.eu-central~eu-west: is given twice',
    'a link has the same round trip both ways',
  ],
  [
    'a negative round trip',
    changed('eu-west~us-east: 80', 'eu-west~us-east: -1'),
    'holdfast.yaml:9:51: links.eu-west~us-east: is negative',
    'write milliseconds, e.g. 80',
  ],
])('%s is refused with the line, what is wrong and what would be right', (_, text, message, hint) => {
  expect(refusal(text)).toMatchObject({ code: 'config_invalid', message, hint })
})

test('the last ports that there are do, and the system chooses for any number of regions', () => {
  expect(parse(changed('127.0.0.1:7400', '127.0.0.1:65533')).listen.port).toBe(65_533)
  expect(parse(changed('127.0.0.1:7400', '127.0.0.1:0')).listen.port).toBe(0)
})
