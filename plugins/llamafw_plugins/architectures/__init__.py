"""Model architectures, one per file, named as in ``general.architecture``."""

from llamafw import Register, hookimpl
from llamafw_plugins.architectures.apertus import apertus
from llamafw_plugins.architectures.baichuan import baichuan
from llamafw_plugins.architectures.bert import bert, jina_bert_v2, jina_bert_v3, nomic_bert, nomic_bert_moe
from llamafw_plugins.architectures.bitnet import bitnet, bitnet_b1_58
from llamafw_plugins.architectures.cohere2 import cohere2, command_r
from llamafw_plugins.architectures.deepseek2 import deepseek2, mistral4
from llamafw_plugins.architectures.dots1 import dots1
from llamafw_plugins.architectures.ernie4_5_moe import ernie4_5_moe
from llamafw_plugins.architectures.eurobert import eurobert, neo_bert
from llamafw_plugins.architectures.exaone4 import exaone4
from llamafw_plugins.architectures.falcon import falcon
from llamafw_plugins.architectures.falcon_h1 import falcon_h1
from llamafw_plugins.architectures.gemma import gemma
from llamafw_plugins.architectures.gemma2 import gemma2
from llamafw_plugins.architectures.gemma3 import gemma3, gemma_embedding
from llamafw_plugins.architectures.gemma3n import gemma3n
from llamafw_plugins.architectures.gemma4 import gemma4
from llamafw_plugins.architectures.glm4 import glm4, glm4moe
from llamafw_plugins.architectures.gpt2 import bloom, gpt2, gptneox, mpt
from llamafw_plugins.architectures.gpt_oss import gpt_oss
from llamafw_plugins.architectures.granite import granite, granitehybrid, granitemoe, minicpm
from llamafw_plugins.architectures.hunyuan_dense import hunyuan_dense
from llamafw_plugins.architectures.jamba import jamba
from llamafw_plugins.architectures.lfm2 import lfm2, lfm2moe
from llamafw_plugins.architectures.llama import ernie4_5, internlm2, llama, llama_embed
from llamafw_plugins.architectures.llama4 import llama4
from llamafw_plugins.architectures.mamba import mamba, mamba2
from llamafw_plugins.architectures.minicpm3 import minicpm3
from llamafw_plugins.architectures.minimax_m2 import minimax_m2
from llamafw_plugins.architectures.mistral3 import mistral3
from llamafw_plugins.architectures.modern_bert import modern_bert
from llamafw_plugins.architectures.nemotron_h import nemotron_h, nemotron_h_moe
from llamafw_plugins.architectures.olmo2 import olmo2, olmoe
from llamafw_plugins.architectures.phi2 import phi2
from llamafw_plugins.architectures.phi3 import phi3, phimoe
from llamafw_plugins.architectures.plamo2 import plamo2
from llamafw_plugins.architectures.qwen2 import qwen2, qwen2moe
from llamafw_plugins.architectures.qwen3 import qwen3, qwen3moe
from llamafw_plugins.architectures.qwen35 import qwen3next, qwen35, qwen35moe
from llamafw_plugins.architectures.seed_oss import seed_oss
from llamafw_plugins.architectures.smollm3 import arcee, smollm3
from llamafw_plugins.architectures.stablelm import stablelm
from llamafw_plugins.architectures.starcoder2 import orion, starcoder2
from llamafw_plugins.architectures.t5encoder import t5encoder


@hookimpl
def register_architectures(register: Register) -> None:
    """Register every architecture by its name."""
    for architecture in (
        apertus,
        arcee,
        baichuan,
        bert,
        bitnet,
        bloom,
        cohere2,
        deepseek2,
        dots1,
        ernie4_5,
        eurobert,
        exaone4,
        falcon,
        gemma,
        gemma2,
        gemma3,
        gemma3n,
        gemma4,
        glm4,
        glm4moe,
        gpt2,
        gptneox,
        granite,
        granitehybrid,
        granitemoe,
        internlm2,
        jamba,
        lfm2,
        lfm2moe,
        llama,
        llama4,
        mamba,
        mamba2,
        minicpm,
        minicpm3,
        mistral3,
        mistral4,
        mpt,
        nemotron_h,
        nemotron_h_moe,
        olmo2,
        olmoe,
        orion,
        phi2,
        phi3,
        phimoe,
        plamo2,
        qwen2,
        qwen2moe,
        qwen3,
        qwen35,
        qwen35moe,
        qwen3moe,
        qwen3next,
        seed_oss,
        smollm3,
        stablelm,
        starcoder2,
        t5encoder,
    ):
        register(architecture.__name__, architecture)
    register("bitnet-b1.58", bitnet_b1_58)
    register("command-r", command_r)
    register("ernie4_5-moe", ernie4_5_moe)
    register("falcon-h1", falcon_h1)
    register("gemma-embedding", gemma_embedding)
    register("gpt-oss", gpt_oss)
    register("hunyuan-dense", hunyuan_dense)
    register("jina-bert-v2", jina_bert_v2)
    register("jina-bert-v3", jina_bert_v3)
    register("llama-embed", llama_embed)
    register("minimax-m2", minimax_m2)
    register("modern-bert", modern_bert)
    register("neo-bert", neo_bert)
    register("nomic-bert", nomic_bert)
    register("nomic-bert-moe", nomic_bert_moe)
