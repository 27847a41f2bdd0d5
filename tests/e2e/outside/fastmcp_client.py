"""The FastMCP 4 client: ``python fastmcp_client.py URL TOKEN TOOL ARGUMENTS`` prints what it found as one line of JSON."""

import asyncio
import json
import sys

from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport

url, token, tool, arguments = sys.argv[1:5]


async def look(client: Client, method: str, member: str) -> list[str]:
    try:
        return sorted(str(getattr(entry, member)) for entry in await getattr(client, method)())
    except Exception as error:  # a server that has no such objects refuses the method
        return [f"({type(error).__name__})"]


async def main() -> None:
    async with Client(StreamableHttpTransport(url, headers={"authorization": f"Bearer {token}"})) as client:
        called = await client.call_tool(tool, json.loads(arguments), raise_on_error=False)
        print(
            json.dumps(
                {
                    "tools": await look(client, "list_tools", "name"),
                    "resources": await look(client, "list_resources", "uri"),
                    "prompts": await look(client, "list_prompts", "name"),
                    "error": called.is_error,
                    "text": called.content[0].text,
                }
            )
        )


asyncio.run(main())
